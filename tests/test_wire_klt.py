"""The klt codec: exact on both ends, as long as its model says, and safe to receive from anyone."""

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.errors import FrameError, RunError
from cutlayer.wire import frame
from cutlayer.wire.codec import (
    decode_activations,
    decode_gradient,
    encode_activations_with,
    encode_gradients_with,
)
from cutlayer.wire.codecs import laws, spatial, symbols
from cutlayer.wire.codecs.basis import Basis, Components, read_basis
from cutlayer.wire.codecs.drift import RateWatch
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.seam import MERGED, Rows
from cutlayer.wire.headers import (
    CodedActivationsHeader,
    SpatialBasisHeader,
    TokenBasisHeader,
)
from cutlayer.wire.known_tokens import known_tokens
from cutlayer.wire.messages import ActivationsMessage, GradientMessage
from cutlayer.wire.places import Places, find_places
from cutlayer.wire.tail import (
    FeatureGradientMessage,
    FeaturesMessage,
    decode_feature_gradient,
    decode_features,
    encode_features,
)

WIDTH, TOKENS, SIDE = 12, 5, 2


def hidden(samples: int, seed: int = 0, width: int = WIDTH, tokens: int = TOKENS) -> Tensor:
    """Activations [B, T, D]: correlated channels, means by position, a first token of its own."""
    shape = torch.Generator().manual_seed(99)
    mixing = torch.randn(width, width, generator=shape) * 0.7 ** torch.arange(width)
    means = torch.randn(tokens, width, generator=shape)
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, tokens, width, generator=rng) @ mixing.T + 2 * means
    x[:, 0] *= 3
    return x


def rows(x: Tensor, positions: Tensor | None = None) -> Rows:
    places = find_places(x, None) if positions is None else positions
    return Rows(x.reshape(-1, x.shape[-1]), places.reshape(-1))


def alike(samples: int, seed: int = 0) -> Tensor:
    """Activations whose patches, a grid of SIDE x SIDE behind the first token, are much alike."""
    x = hidden(samples, seed)
    x[:, 1:] = x[:, 1:].mean(1, keepdim=True) + 0.3 * x[:, 1:]
    return x


def fitted(**changes: Any) -> KltCodec:
    wanted = KltSettings(**{"prefix": 1, "rate_bits": 1.0} | changes)
    samples = rows(alike(80) if wanted.patches_a_side else hidden(80))
    if wanted.token_classes:
        said, labels = spoken(80)
        samples = rows(said, known(labels))
    return KltCodec(fit_basis([samples], wanted), wanted)


def other_end(codec: KltCodec) -> KltCodec:
    """What a peer has: the side information and nothing else."""
    return KltCodec(read_basis(codec.side_information()))


def message(x: Tensor, places: Places | None = None, mask: Tensor | None = None) -> Any:
    return ActivationsMessage(3, 2, 11, x, mask, torch.arange(len(x)) % 10, 10, places)


def features(x: Tensor) -> FeaturesMessage:
    sent = rows(x)
    return FeaturesMessage(3, 2, 11, sent.values, positions=sent.positions)


def feature_gradient(x: Tensor) -> FeatureGradientMessage:
    sent = rows(x)
    return FeatureGradientMessage(3, 2, 11, sent.values, 0.5, positions=sent.positions)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def spoken(samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations [B, T, D] of tokens out of six, and what stands after each [B, T]: `NONE_SAID`
    after the first tokens, the question, whose next are not told."""
    rng = torch.Generator().manual_seed(seed)
    said = torch.randint(6, (samples, TOKENS), generator=rng)
    means = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(98))
    labels = torch.nn.functional.pad(said[:, 1:], (0, 1), value=NONE_SAID)
    labels[:, 0] = NONE_SAID
    return hidden(samples, seed) / 4 + 2 * means[said], labels


NONE_SAID = 9


def known(labels: Tensor, mask: Tensor | None = None) -> Tensor:
    return known_tokens(labels, mask, NONE_SAID + 1, CLASSES)


CLASSES = 5
"""Fewer than there are tokens: two of them share a class."""


KINDS = {
    "images": {},
    "texts": {"scaled": True},
    "gradients": {"per_batch": True},
    "unbiased": {"per_batch": True, "unbiased": True},
    "wide basis": {"basis_bits": 16, "rate_bits": 4.0},
    "patches": {"patches_a_side": SIDE},
    "known tokens": {"token_classes": CLASSES, "scaled": True},
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def codec(request: pytest.FixtureRequest) -> KltCodec:
    return fitted(**request.param)


def test_what_is_decoded_is_the_codecs_own_reconstruction_to_the_last_bit(codec: KltCodec) -> None:
    batch = [rows(hidden(n, seed=n)) for n in (1, 4, 2)]
    expected = codec.reconstruct(batch, generators(3))
    for coder in ("range", "zstd"):
        sender = KltCodec(codec.basis, codec.settings, coder=coder)
        coded = sender.encode(batch, generators(3))
        receiver = other_end(codec)
        for one, sent, due in zip(coded, batch, expected, strict=True):
            got = receiver.decode(one.header, memoryview(one.body), sent.positions, WIDTH)
            assert torch.equal(got, due)


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 4),
    keep=st.integers(0, TOKENS - 1),
    merged=st.booleans(),
    padded=st.booleans(),
    by_token=st.booleans(),
    seed=st.integers(0, 99),
)
def test_dropped_merged_and_padded_tokens_come_back_at_their_places(
    B: int, keep: int, merged: bool, padded: bool, by_token: bool, seed: int
) -> None:
    codec, rng = FIXED, torch.Generator().manual_seed(seed)
    kept = torch.stack([torch.randperm(TOKENS - 1, generator=rng)[:keep] for _ in range(B)])
    places = Places(kept.sort(1).values, TOKENS - 1, merged)
    x = hidden(B, seed)[:, : 1 + keep + merged]
    mask = torch.rand(x.shape[:2], generator=rng) < 0.7 if padded else None
    sent = message(x, places, mask)
    if by_token:
        labels = torch.randint(10, x.shape[:2], generator=rng)
        labels = labels if mask is None else labels.masked_fill(~mask, 0)
        sent = replace(sent, labels=labels)
    got = decode_activations(encode_activations_with(codec, [sent])[0], codec=other_end(codec))
    assert got.places is not None
    assert torch.equal(got.places.kept, places.kept)
    assert (got.places.candidates, got.places.merged) == (TOKENS - 1, merged)
    assert torch.equal(got.labels, sent.labels)
    valid = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    positions = find_places(x, places)
    due = torch.zeros_like(x)
    due[valid] = codec.reconstruct([Rows(x[valid], positions[valid])])[0]
    assert torch.equal(got.hidden, due)
    if merged:
        assert (positions[:, -1] == MERGED).all()


FIXED = fitted()


@settings(max_examples=15, deadline=None)
@given(
    step=st.floats(0.05, 1.0),
    factor=st.floats(1.5, 8),
    seed=st.integers(0, 9),
    scaled=st.booleans(),
)
def test_a_larger_step_takes_fewer_bytes_and_leaves_a_larger_error(
    step: float, factor: float, seed: int, scaled: bool
) -> None:
    sent = rows(hidden(100, seed + 1))
    found = []
    base = fitted(step=step, scaled=scaled).basis
    for size in (step, step * factor):
        codec = KltCodec(base, step=max(size, base.head.step))
        length = len(codec.encode([sent])[0].body)
        error = (codec.reconstruct([sent])[0] - sent.values).square().mean().item()
        found.append((length, error, codec.expected_bytes(sent.positions, WIDTH)))
    (fine, small, told), (coarse, large, told_coarse) = found
    assert fine > coarse
    assert told > told_coarse
    assert small < large


@pytest.mark.parametrize("rate", [0.25, 1.0, 3.0])
def test_auto_steps_meet_the_rate_on_samples_never_seen(rate: float) -> None:
    wanted = KltSettings(prefix=1, rate_bits=rate)
    codec = KltCodec(fit_basis([rows(hidden(300))], wanted), wanted)
    sent = rows(hidden(300, seed=1))
    bits = 8 * len(codec.encode([sent])[0].body) / sent.values.numel()
    assert bits == pytest.approx(rate, rel=0.06)
    assert codec.expected_bytes(sent.positions, WIDTH) * 8 / sent.values.numel() == pytest.approx(
        rate, rel=0.03
    )


@settings(max_examples=25, deadline=None)
@given(
    scales=st.lists(st.integers(60, 190), min_size=1, max_size=8),
    dithered=st.booleans(),
    seed=st.integers(0, 99),
)
def test_real_code_lengths_are_within_one_per_cent_of_ideal(
    scales: list[int], dithered: bool, seed: int
) -> None:
    widths = laws.from_codes(np.array(sorted(scales), np.uint8))
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=(len(widths), 2000)) * widths[:, None]
    values = np.floor(values + rng.random(values.shape)) if dithered else np.rint(values)
    whole = np.clip(values, -symbols.LARGEST, symbols.LARGEST).astype(np.int32)
    runs = symbols.runs_of(widths, dithered)
    parts = np.split(whole, np.cumsum([run.rows for run in runs])[:-1])
    coder, escapes, body = symbols.encode(parts, runs, "range")
    # Ending a stream costs up to two words.
    assert 8 * len(body) <= 1.01 * symbols.ideal_bits(parts, runs) + 64
    reader = symbols.Reader(memoryview(body), coder, escapes, whole.size)
    for run, part in zip(runs, parts, strict=True):
        assert np.array_equal(reader.read(run, 2000), part)
    reader.finish()


def test_values_far_outside_the_model_escape_and_come_back() -> None:
    x = hidden(2, seed=3)
    x[1, 2] += 200 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    codec = fitted(step=0.02)
    coded = codec.encode([rows(x)])[0]
    assert coded.header.escapes > 0  # type: ignore[attr-defined]
    got = codec.decode(coded.header, memoryview(coded.body), rows(x).positions, WIDTH)
    assert torch.equal(got, codec.reconstruct([rows(x)])[0])
    # All twelve channels are live, so that nothing but rounding is lost.
    assert (got - rows(x).values).abs().max() < 0.1


def test_what_a_codec_cannot_carry_is_one_clear_error() -> None:
    with pytest.raises(RunError, match="steps of the codec from its mean"):
        FIXED.encode([rows(hidden(1) * 1e9)])
    x = hidden(2)
    x[0, 0, 0] = torch.nan
    with pytest.raises(RunError, match="NaN"):
        FIXED.encode([rows(x)])
    with pytest.raises(RunError, match="without samples"):
        fit_basis([], KltSettings())
    with pytest.raises(RunError, match="4096 channels"):
        fit_basis([rows(torch.ones(1, 2, 5000))], KltSettings())
    with pytest.raises(ValueError, match="finer"):
        KltCodec(FIXED.basis, step=FIXED.basis.head.step / 2)


def test_unbiased_rounding_is_right_on_average() -> None:
    codec = fitted(per_batch=True, unbiased=True, rate_bits=0.5)
    sent = rows(hidden(4, seed=5))
    total = torch.zeros_like(sent.values)
    for seed in range(800):
        total += codec.reconstruct([sent], [torch.Generator().manual_seed(seed)])[0]
    error = (total / 800 - sent.values).abs().max() / sent.values.std()
    once = codec.reconstruct([sent], generators(1))[0] - sent.values
    assert error < 0.25 * once.abs().max() / sent.values.std()


@pytest.mark.parametrize(("common", "better"), [(0.5, True), (0.0, False)])
def test_unbiased_rounding_tells_what_all_tokens_share_and_adds_to_the_rest(
    common: float, better: bool
) -> None:
    rng = torch.Generator().manual_seed(3)
    size = torch.rand(400, 1, 1, generator=rng) ** 8  # few tokens have most of the gradient
    sent = rows(size * (torch.randn(400, TOKENS, WIDTH, generator=rng) + common))
    errors, lengths = [], []
    for unbiased in (False, True):
        made = KltSettings(per_batch=True, rate_bits=1.0, unbiased=unbiased)
        found = KltCodec(fit_basis([sent], made), made)
        error = found.reconstruct([sent], generators(1))[0] - sent.values
        errors.append((error.square().mean(), error.sum(0).square().mean()))
        lengths.append(len(found.encode([sent], generators(1))[0].body))
    (single, summed), (single_unbiased, summed_unbiased) = errors
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)
    assert single < single_unbiased
    assert (summed_unbiased < summed / 3) == better
    assert (summed_unbiased < summed) == better


def test_a_metric_of_tokens_that_there_are_not_costs_no_bits() -> None:
    """A language model has no prefix tokens, so that their errors have no weight either."""
    rng, D = torch.Generator().manual_seed(0), 64
    turns = [torch.linalg.qr(torch.randn(D, D, generator=rng))[0] for _ in range(2)]
    values = (torch.randn(600, D, generator=rng) * torch.logspace(0, -2, D) @ turns[0])[None]
    weight = (turns[1] * torch.logspace(0, -4, D) @ turns[1].T).double()
    taken = []
    for unused in (weight, torch.zeros_like(weight)):
        metric = torch.stack([unused, weight])
        basis = fit_basis([rows(values)], KltSettings(rate_bits=2), metric=metric)
        taken.append(len(KltCodec(basis).encode([rows(values)])[0].body))
    assert taken[0] == taken[1]


def test_a_metric_spends_bits_where_they_matter() -> None:
    sent = rows(hidden(200, seed=1))
    weight = torch.ones(WIDTH)
    weight[0] = 400.0
    wanted = KltSettings(prefix=1, rate_bits=0.6)
    errors = []
    for metric in (None, torch.diag(weight).expand(2, -1, -1)):
        codec = KltCodec(fit_basis([rows(hidden(200))], wanted, metric=metric), wanted, metric)
        lost = (other_end(codec).reconstruct([sent])[0] - sent.values).square().mean(0)
        errors.append(float((lost * weight).sum()))
    assert errors[1] < 0.8 * errors[0]


def test_versions_never_mix() -> None:
    sent = message(hidden(2))
    again = FIXED.fit([rows(hidden(80, seed=7))])
    assert again.basis.head.version == FIXED.basis.head.version + 1
    with pytest.raises(FrameError, match="version 1 of the basis where version 2 is in use"):
        decode_activations(encode_activations_with(FIXED, [sent])[0], codec=again)
    # Of the same version, but another: a server that began again.
    twin = KltCodec(fit_basis([rows(hidden(80, seed=7))], FIXED.settings), FIXED.settings)
    with pytest.raises(FrameError, match="send the basis again"):
        decode_activations(encode_activations_with(FIXED, [sent])[0], codec=twin)
    with pytest.raises(FrameError, match="send the basis first"):
        decode_activations(encode_activations_with(FIXED, [sent])[0])
    with pytest.raises(FrameError, match="send the basis first"):
        decode_gradient(encode_gradients_with(FIXED, [GradientMessage(0, 0, 0, hidden(2), 1.0)])[0])
    for tail, decode in (
        (features(hidden(2)), decode_features),
        (feature_gradient(hidden(2)), decode_feature_gradient),
    ):
        (data,) = encode_features([tail], FIXED)
        given = {"positions": tail.positions}
        with pytest.raises(FrameError, match="version 1 of the basis where version 2 is in use"):
            decode(data, codec=again, **given)
        with pytest.raises(FrameError, match="send the basis again"):
            decode(data, codec=twin, **given)
        with pytest.raises(FrameError, match="send the basis first"):
            decode(data, **given)
        with pytest.raises(FrameError, match="has 10 tokens where 9 are due"):
            decode(data, codec=FIXED, positions=tail.positions[1:])


def test_what_passes_the_tail_comes_back_as_the_codecs_own_reconstruction(codec: KltCodec) -> None:
    for make, decode in (
        (features, decode_features), (feature_gradient, decode_feature_gradient),
    ):  # fmt: skip
        sent = [make(hidden(n, seed=n)) for n in (1, 3)]
        frames = encode_features(sent, codec, generators(2))
        for number, (one, data) in enumerate(zip(sent, frames, strict=True)):
            # Each alone, so that no step size depends on who else is in the call.
            rngs = generators(2)[number : number + 1]
            (due,) = codec.reconstruct([Rows(one.rows, one.positions)], rngs)
            got = decode(data, codec=other_end(codec), positions=one.positions)
            assert torch.equal(got.rows, due)
            assert (got.device, got.round, got.step) == (3, 2, 11)
            assert getattr(got, "loss", 0.5) == 0.5


def test_one_step_size_serves_all_gradients_of_a_batch() -> None:
    codec = fitted(per_batch=True)
    large, small = hidden(30, seed=1), hidden(30, seed=2) * 1e-3
    sent = [GradientMessage(d, 0, 0, x * 1e-5, 0.5) for d, x in enumerate((large, small))]
    frames = encode_gradients_with(codec, sent)
    got = [decode_gradient(data, codec=other_end(codec)).gradient for data in frames]
    assert (got[0] - sent[0].gradient).norm() < 0.5 * sent[0].gradient.norm()
    # Too small to matter beside the others, and sent as next to nothing.
    assert not got[1].any()
    # Two bytes a token at most, which say how small it is.
    assert len(frames[1]) < 2 * 30 * TOKENS + 100


def test_a_watch_asks_for_a_new_fit_only_when_the_rate_has_drifted() -> None:
    calm, drifted = RateWatch(), RateWatch()
    for seed in range(40):
        for watch, factor in ((calm, 1.0), (drifted, 2.0)):
            sent = rows(hidden(8, seed=seed) * factor)
            length = len(FIXED.encode([sent])[0].body)
            watch.add(length, FIXED.expected_bytes(sent.positions, WIDTH))
    assert not calm.due
    assert drifted.due
    assert drifted.ratio > 1.25


def test_without_the_range_coder_zstandard_codes_and_range_frames_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = message(hidden(4))
    ranged = encode_activations_with(FIXED, [sent])[0]
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    monkeypatch.setattr(symbols.importlib.util, "find_spec", lambda name: None)
    poor = KltCodec(FIXED.basis)
    coded = encode_activations_with(poor, [sent])[0]
    due = poor.reconstruct([rows(sent.hidden)])[0].view_as(sent.hidden)
    assert torch.equal(decode_activations(coded, codec=poor).hidden, due)
    with pytest.raises(FrameError, match=r"cutlayer\[codec\]"):
        decode_activations(ranged, codec=poor)


def sealed(kind: str, header: bytes, body: bytes) -> bytes:
    prefix = b"\x93CUT\x01" + struct.pack("<BIQ", frame.KINDS[kind], len(header), len(body))
    return prefix + struct.pack("<I", zlib.crc32(prefix + header + body)) + header + body


LIMIT = 2**16


def samples() -> list[tuple[str, bytes, Callable[[bytes], Any]]]:
    found: list[tuple[str, bytes, Callable[[bytes], Any]]] = []
    for settings_ in KINDS.values():
        codec = fitted(**settings_)
        receiver = other_end(codec)
        places = Places(torch.tensor([[0, 2], [1, 3]]), TOKENS - 1, True)
        for coder in ("range", "zstd"):
            sender = KltCodec(codec.basis, coder=coder)  # type: ignore[arg-type]
            batches = [message(hidden(2))]
            if not codec.basis.head.patches_a_side:
                batches.append(message(hidden(2)[:, :4], places))
            if codec.token_classes:
                batches = [replace(message(spoken(2)[0]), labels=spoken(2)[1])]
            for one in batches:
                data = encode_activations_with(sender, [one], generators(1))[0]
                found.append(
                    (
                        frame.kind_of(data),
                        data,
                        lambda data, codec=receiver: (
                            decode_activations(data, codec=codec, max_bytes=LIMIT).hidden
                        ),
                    )
                )
            if codec.token_classes:
                continue
            back = GradientMessage(1, 2, 3, hidden(2), 0.5, torch.ones(2, TOKENS) > 0)
            data = encode_gradients_with(sender, [back], generators(1))[0]
            found.append(
                (
                    "coded gradient",
                    data,
                    lambda data, codec=receiver: (
                        decode_gradient(data, codec=codec, max_bytes=LIMIT).gradient
                    ),
                )
            )
            for tail, decode in (
                (features(hidden(2)), decode_features),
                (feature_gradient(hidden(2)), decode_feature_gradient),
            ):
                data = encode_features([tail], sender, generators(1))[0]
                found.append(
                    (
                        frame.kind_of(data),
                        data,
                        lambda data, codec=receiver, decode=decode, at=tail.positions: (
                            decode(data, codec=codec, positions=at, max_bytes=LIMIT).rows
                        ),
                    )
                )
        basis = codec.side_information()
        found.append((frame.kind_of(basis), basis, decoded_basis))
    return found


def decoded_basis(data: bytes) -> Tensor:
    basis = read_basis(data, max_bytes=LIMIT)
    return torch.cat([torch.from_numpy(group.whole) for group in (basis.prefix, basis.others)])


SAMPLES = samples()


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(3):
            case 0:
                mutant[rng.randrange(len(mutant))] = rng.randrange(256)
            case 1:
                start = rng.randrange(len(mutant))
                del mutant[start : start + rng.randint(1, 8)]
            case _:
                start = rng.randrange(len(mutant))
                mutant[start:start] = rng.randbytes(rng.randint(1, 8))
        if not mutant:
            return b""
    return bytes(mutant)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**63 - 1))
def test_mutants_raise_frame_error_or_are_finite_and_within_the_limit(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        kind, data, decode = rng.choice(SAMPLES)
        with pytest.raises(FrameError):
            decode(data[: rng.randrange(len(data))])
        mutant = mutate(data, rng)
        try:
            got = decode(mutant)
        except FrameError:
            pass
        else:
            assert torch.equal(got, decode(data))
        header = min(struct.unpack_from("<I", data, 6)[0], max(0, len(mutant) - 22))
        try:
            got = decode(sealed(kind, mutant[22 : 22 + header], mutant[22 + header :]))
        except FrameError:
            continue
        assert got.isfinite().all()
        assert 4 * got.numel() <= LIMIT


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (3, [2**31, 2**31, WIDTH]),
        (3, [2, TOKENS, WIDTH + 1]),
        (3, [2, TOKENS + 1, WIDTH]),
        (4, True),
        (5, 2**20),
        (5, 3),
        (6, True),
        (7, [1, 0, 0.1, 1.0, "range", 0]),
        (7, [1, None, float("nan"), 1.0, "range", 0]),
        (7, [1, None, 0.1, float("nan"), "range", 0]),
        (7, [1, None, float("inf"), 1.0, "range", 0]),
        (7, [1, None, 1e-31, 1.0, "range", 0]),
        (7, [1, None, 1e-9, 1.0, "range", 0]),
        (7, [1, None, 0.1, 1.0, "range", 2**40]),
        (7, [1, None, 0.1, 1.0, "range", 1]),
        (7, [1, None, 0.1, 1.0, "zstd", 0]),
        (7, [1, None, 0.1, 1.0, "plain", 0]),
        (7, [1, None, 0.1, 1.0, "huffman", 0]),
    ],
)
def test_a_sealed_header_that_lies_is_refused(index: int, value: Any) -> None:
    data = encode_activations_with(FIXED, [message(hidden(2))])[0]
    header, body = frame.unpack(data, "coded activations", CodedActivationsHeader)
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(header))
    if index == 7 and value[1] is None:
        value = [1, FIXED.basis.fingerprint, *value[2:]]
        if value[2] == 0.1:
            value[2] = FIXED.basis.head.step
    fields[index] = value
    with pytest.raises(FrameError):
        decode_activations(
            sealed("coded activations", msgspec.msgpack.encode(fields), bytes(body)), codec=FIXED
        )


def test_a_basis_is_counted_versioned_and_bounded() -> None:
    data = FIXED.side_information()
    assert frame.kind_of(data) == "basis"
    assert read_basis(data).fingerprint == FIXED.basis.fingerprint
    with pytest.raises(FrameError, match="above max_bytes"):
        read_basis(data, max_bytes=len(data))
    large = fit_basis([rows(hidden(300, width=64))], KltSettings(rate_bits=2.0))
    # int8 vectors, two bytes of scales and one of shifts a component, and means.
    assert len(large.frame) < 64 * 67 + 4 * 64 * (TOKENS + 1) + 200


def test_patches_that_are_alike_take_a_smaller_error_at_the_same_rate() -> None:
    together = fitted(patches_a_side=SIDE)
    assert frame.kind_of(together.side_information()) == "spatial basis"
    alone = KltCodec(fit_basis([rows(alike(80))], replace(together.settings, patches_a_side=0)))
    sent = rows(alike(200, seed=1))
    sizes, errors = [], []
    for codec in (alone, together):
        sizes.append(len(codec.encode([sent])[0].body))
        errors.append(float((codec.reconstruct([sent])[0] - sent.values).square().mean()))
    assert sizes[1] < 1.05 * sizes[0]
    assert errors[1] < 0.8 * errors[0]


@given(side=st.integers(2, 20), largest=st.integers(1, 2**20), seed=st.integers(0, 99))
def test_the_way_back_from_coefficients_of_patches_undoes_the_way_there(
    side: int, largest: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    grids = rng.integers(-largest, largest + 1, (2, side * side, 3)).astype(np.float64)
    back = spatial.back(grids, side)
    assert np.array_equal(back, np.rint(back))
    there = spatial.forth(torch.from_numpy(back.reshape(-1, 3)), side) / spatial.PARTS
    assert np.abs(there.numpy() - grids.reshape(-1, 3)).max() < 0.01 * largest * side + 1
    assert np.bincount(spatial.bands(side)).shape == (spatial.count(side),)


def test_a_spatial_basis_refuses_samples_that_lack_patches() -> None:
    codec = fitted(patches_a_side=SIDE)
    some = rows(hidden(2)[:, :4], torch.arange(4).repeat(2, 1))
    with pytest.raises(ValueError, match=r"send all tokens, or set method\.uplink\.spatial"):
        codec.encode([some])
    with pytest.raises(ValueError, match="all 5 tokens of each sample"):
        fit_basis([some], codec.settings)
    coded = codec.encode([rows(hidden(2))])[0]
    with pytest.raises(FrameError, match="some are missing"):
        codec.decode(coded.header, memoryview(coded.body), some.positions, WIDTH)
    with pytest.raises(ValueError, match="for whole activations"):
        fitted(patches_a_side=SIDE, scaled=True)


def test_coefficients_too_large_to_be_added_up_exactly_are_refused_on_both_sides() -> None:
    side, D = 16, 300
    head = SpatialBasisHeader(
        version=1, width=D, prefix=0, positions=side**2, prefix_components=0, other_components=D,
        step=1.0, mean_unit=1.0, log2_unit=-15, wide=True, scaled=False, size_centres=(128, 128),
        size_spreads=(1.0, 1.0), token_bits=(0.0, 1.0), per_batch=False, dithered=False, side=side,
    )  # fmt: skip
    codes, bands = np.full(D, 255, np.uint8), spatial.count(side)
    laws_of = np.tile(codes, (bands, 1))
    signs = np.random.default_rng(0).choice([-1, 1], (D, D))
    vectors = (signs * (2**15 - 1)).astype(np.int16)
    empty = Components(codes[:0], laws_of[:1, :0], laws_of[:1, :0], vectors[:0])
    full = Components(np.zeros(D, np.uint8), laws_of, laws_of, vectors)
    codec = KltCodec(Basis(head, np.zeros((side**2 + 1, D), np.int32), empty, full))
    # Of one patch alone all coefficients are large, and it is side / 2 times as large as they.
    values = torch.zeros(side**2, D)
    values[0] = torch.from_numpy(signs.sum(0)).float() * (6e4 * side / 2)
    sent = Rows(values, torch.arange(side**2))
    with pytest.raises(RunError, match="too large to be added up exactly"):
        codec.reconstruct([sent])
    coded = codec.encode([sent])[0]
    with pytest.raises(FrameError, match="too large to be added up exactly"):
        codec.decode(coded.header, memoryview(coded.body), sent.positions, D)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": 3}, "a grid of 3 patches a side"),
        ({"positions": 4}, "means for 4 positions"),
        ({"scaled": True}, "which no fit makes"),
        ({"dithered": True}, "which no fit makes"),
        ({"side": 1}, "header is not valid"),
        ({"side": 2**20}, "header is not valid"),
    ],
)
def test_a_spatial_basis_that_lies_is_refused(change: dict[str, Any], message: str) -> None:
    data = fitted(patches_a_side=SIDE).side_information()
    header, body = frame.unpack(data, "spatial basis", SpatialBasisHeader)
    lies = msgspec.msgpack.encode(msgspec.structs.replace(header, **change))
    with pytest.raises(FrameError, match=message):
        read_basis(sealed("spatial basis", lies, bytes(body)))


def test_a_label_names_the_token_after_its_own() -> None:
    labels = torch.tensor([[NONE_SAID, 3, 7, NONE_SAID], [4, NONE_SAID, 0, 2]])
    expected = [[MERGED, MERGED, 3, 2], [MERGED, 4, MERGED, 0]]
    assert known(labels).tolist() == expected
    mask = torch.tensor([[True, True, True, True], [False, True, True, True]])
    assert known(labels, mask).tolist() == [expected[0], [MERGED, MERGED, MERGED, 0]]


@settings(max_examples=25, deadline=None)
@given(B=st.integers(1, 4), padded=st.booleans(), seed=st.integers(0, 99))
def test_known_tokens_come_back_by_their_labels(B: int, padded: bool, seed: int) -> None:
    codec = TOKEN_CODEC
    x, labels = spoken(B, seed)
    mask = None
    if padded:
        mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    sent = replace(message(x, mask=mask), labels=labels)
    got = decode_activations(encode_activations_with(codec, [sent])[0], codec=other_end(codec))
    valid = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    assert torch.equal(got.labels, labels.masked_fill(~valid, 0))
    due = torch.zeros_like(x)
    due[valid] = codec.reconstruct([Rows(x[valid], known(labels, mask)[valid])])[0]
    assert torch.equal(got.hidden, due)


TOKEN_CODEC = fitted(token_classes=CLASSES, scaled=True)


def test_known_tokens_take_a_smaller_error_at_the_same_rate() -> None:
    assert frame.kind_of(TOKEN_CODEC.side_information()) == "token basis"
    said, labels = spoken(80)
    alone = KltCodec(fit_basis([rows(said)], replace(TOKEN_CODEC.settings, token_classes=0)))
    x, labels = spoken(200, seed=1)
    errors, sizes = [], []
    for codec, sent in ((alone, rows(x)), (TOKEN_CODEC, rows(x, known(labels)))):
        sizes.append(len(codec.encode([sent])[0].body))
        errors.append(float((codec.reconstruct([sent])[0] - sent.values).square().mean()))
    assert sizes[1] < 1.05 * sizes[0]
    assert errors[1] < 0.8 * errors[0]


def test_a_basis_of_known_tokens_needs_their_labels() -> None:
    x, _ = spoken(2)
    with pytest.raises(ValueError, match="not those of tokens"):
        encode_activations_with(TOKEN_CODEC, [message(x)])
    with pytest.raises(ValueError, match="whole activations of texts"):
        fitted(token_classes=CLASSES, per_batch=True)
    (by_sample,) = encode_activations_with(FIXED, [message(x)])
    (gradient,) = encode_gradients_with(FIXED, [GradientMessage(3, 2, 11, x, 0.5)])
    with pytest.raises(FrameError, match="labels are those of whole samples"):
        decode_activations(by_sample, codec=TOKEN_CODEC)
    with pytest.raises(FrameError, match="one of gradients, without labels"):
        decode_gradient(gradient, codec=TOKEN_CODEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 4}, "4 classes of tokens, means for 5"),
        ({"prefix": 1}, "components for 1"),
        ({"per_batch": True}, "which no fit makes"),
        ({"dithered": True}, "which no fit makes"),
        ({"classes": 0}, "header is not valid"),
        ({"classes": 2**20}, "header is not valid"),
    ],
)
def test_a_basis_of_known_tokens_that_lies_is_refused(change: dict[str, Any], message: str) -> None:
    header, body = frame.unpack(
        TOKEN_CODEC.side_information(), "token basis", TokenBasisHeader, 2**20
    )
    lies = msgspec.msgpack.encode(msgspec.structs.replace(header, **change))
    with pytest.raises(FrameError, match=message):
        read_basis(sealed("token basis", lies, bytes(body)))
