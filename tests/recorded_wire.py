"""What this version says on the wire, as it is recorded in tests/recorded: run it to record anew.

A recording is made once for a PROTOCOL and then kept: later versions are held to it.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutlayer import methods
from cutlayer.job import make_job
from cutlayer.network.transport import messages
from cutlayer.settings.method import Method, Quantizer
from cutlayer.wire import adapter_frames, codec, tail, visit
from cutlayer.wire.change import as_change
from cutlayer.wire.codecs.basis import read_basis
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.frame import kind_of
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage, GradientMessage
from cutlayer.wire.opened import activations_of, open_activations
from test_net_messages import EXAMPLES
from test_wire_klt import SIDE, TOKEN_CODEC, fitted, hidden

FOLDER = Path(__file__).parent / "recorded"
PLAIN = Quantizer(bits=4, entropy="none")
# Values that float32 holds exactly: equal on any machine.
VALUES = ((torch.arange(2 * 3 * 8) * 37 % 129 - 64) / 16).view(2, 3, 8)
LABELS = torch.tensor([3, 9])
POSITIONS = torch.arange(5).repeat(2)
TOKEN_LABELS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def path_of(protocol: int) -> Path:
    return FOLDER / f"protocol-{protocol}.json"


def plain_frames() -> dict[str, bytes]:
    """A frame of each kind that does not depend on a fit or on zstandard."""
    up = ActivationsMessage(7, 2, 1, VALUES, None, LABELS, 10)
    sample = codec.encode_activations(
        ActivationsMessage(7, 2, 1, VALUES[:1], None, LABELS[:1], 10), PLAIN
    )
    texts = ActivationsMessage(7, 2, 1, VALUES, None, TOKEN_LABELS, 10)
    rows, own = VALUES.reshape(-1, 8), QuantizedCodec(PLAIN)
    frames = [
        codec.encode_activations(up, PLAIN),
        codec.encode_gradient(GradientMessage(7, 2, 1, VALUES, 0.5), PLAIN),
        adapter_frames.encode_adapter(AdapterMessage(7, 2, 31, {"a": VALUES[0]}), 32),
        codec.encode_activations(texts, PLAIN),
        visit.encode_visit(visit.Visit(7, 2, 1, {4: sample, 9: None})),
        *tail.encode_features([tail.FeaturesMessage(7, 2, 1, rows)], own),
        *tail.encode_features([tail.FeatureGradientMessage(7, 2, 1, rows, 0.5)], own),
        as_change(sample),
    ]
    return {kind_of(one): one for one in frames}


def fitted_frames() -> dict[str, bytes]:
    """A frame of each other kind: fitted on this machine, packed by zstandard."""
    own = replace(fitted(), coder="zstd")
    x = hidden(2, seed=3)
    up = ActivationsMessage(7, 2, 1, x, None, LABELS, 10)
    texts = ActivationsMessage(7, 2, 1, x, None, torch.arange(10).view(2, 5), 10)
    flat = x.flatten(0, 1)
    features = tail.FeaturesMessage(7, 2, 1, flat, positions=POSITIONS)
    slope = tail.FeatureGradientMessage(7, 2, 1, flat, 0.5, positions=POSITIONS)
    (coded,) = codec.encode_activations_with(own, [up])
    frames = [
        own.side_information(),
        fitted(patches_a_side=SIDE).side_information(),
        TOKEN_CODEC.side_information(),
        coded,
        as_change(coded),
        *codec.encode_activations_with(own, [texts]),
        *codec.encode_gradients_with(own, [GradientMessage(7, 2, 1, x, 0.5)]),
        visit.encode_held(visit.Held(frozenset({4, 9}), 1000)),
        *tail.encode_features([features, slope], own),
    ]
    return {kind_of(one): one for one in frames}


def told(frames: dict[str, bytes]) -> dict[str, str]:
    """What each frame says, by kind: a hash of its numbers, the same on any machine."""
    basis = KltCodec(read_basis(frames["basis"]))
    kinds = ("basis", "spatial basis", "token basis")
    found: dict[str, Any] = {kind: read_basis(frames[kind]).fingerprint for kind in kinds}
    for kind, frame in frames.items():
        match kind:
            case "activations" | "token activations":
                one = codec.decode_activations(frame)
                found[kind] = (one.device, one.round, one.step, one.hidden, one.labels)
            case "coded activations" | "coded token activations":
                one = codec.decode_activations(frame, codec=basis)
                found[kind] = (one.device, one.round, one.step, one.hidden, one.labels)
            case "gradient" | "coded gradient":
                back = codec.decode_gradient(frame, codec=basis if "coded" in kind else None)
                found[kind] = (back.device, back.round, back.step, back.gradient, back.loss)
            case "adapter":
                adapter = adapter_frames.decode_adapter(frame)
                found[kind] = (adapter.device, adapter.round, adapter.samples, adapter.tensors["a"])
            case "visit":
                seen = visit.decode_visit(frame)
                sent = {number: own and own.hex() for number, own in seen.frames.items()}
                found[kind] = (seen.device, seen.round, seen.step, sent)
            case "held":
                held = visit.decode_held(frame)
                found[kind] = (sorted(held.samples), held.room_bytes)
            case "change" | "coded change":
                (change,) = activations_of([open_activations(frame)], basis)
                assert isinstance(change, ActivationsMessage)
                found[kind] = (change.device, change.round, change.step, change.hidden)
            case "features" | "coded features":
                features = tail.decode_features(frame, **_coded(kind, basis))
                found[kind] = (features.device, features.round, features.step, features.rows)
            case "feature gradient" | "coded feature gradient":
                slope = tail.decode_feature_gradient(frame, **_coded(kind, basis))
                found[kind] = (slope.device, slope.round, slope.step, slope.rows, slope.loss)
    return {kind: _hash(value) for kind, value in found.items()}


def _coded(kind: str, basis: KltCodec) -> dict[str, Any]:
    return {"codec": basis, "positions": POSITIONS} if kind.startswith("coded") else {}


def defaults() -> dict[str, Any]:
    """Every setting's default, and what each method changes of it."""
    job = make_job({"world": {}, "generated": {"generator": {"source": "demo"}}})
    plain = Method(name="sflora").model_dump(mode="json")
    own = {
        name: {
            setting: value
            for setting, value in methods.find_method(name).model_dump(mode="json").items()
            if value != plain[setting]
        }
        for name in methods.NAMES
    }
    return {"job": job.model_dump(mode="json"), "methods": own}


def record() -> dict[str, Any]:
    frames = plain_frames() | fitted_frames()
    return {
        "messages": {type(one).__name__: messages.encode(one).hex() for one in EXAMPLES},
        "frames": {kind: frame.hex() for kind, frame in frames.items()},
        "told": told(frames),
        **defaults(),
    }


def _hash(value: Any) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    said = [one.tolist() if isinstance(one, Tensor) else one for one in parts]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(record(), indent=1, sort_keys=True)
    path_of(messages.PROTOCOL).write_text(text + "\n")
