"""An audit attacks what crosses the cut, keeps what it found, and `auto` and reports read it."""

import dataclasses
import html
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import cutlayer
import tiny_models
from browsers import Opened
from cutlayer import Audit, Effort, Job, Leakage, audit, calibrate, plan, simulate
from cutlayer.cli import main
from cutlayer.data.sources import load_calibration
from cutlayer.errors import AllocationError, CutlayerError, RunError
from cutlayer.inference.trained import load_trained
from cutlayer.job import change_job, make_job
from cutlayer.model.export import save_adapter
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.weights import load_model
from cutlayer.planning.calibration.record import subject_of
from cutlayer.planning.leakage import view
from cutlayer.planning.leakage.floor import reidentified_at
from cutlayer.planning.leakage.record import (
    cache_file,
    first_weights,
    leakage_of,
    read_leakage,
    write_leakage,
)
from cutlayer.privacy.anchors import by_label
from cutlayer.privacy.crossing import Victim
from cutlayer.privacy.fisher import information
from cutlayer.privacy.gradient_labels import area
from cutlayer.privacy.inversion import sent_of
from cutlayer.privacy.likeness import matched, psnr_db, reidentified, structural_similarity
from cutlayer.privacy.members import tell_members
from cutlayer.privacy.token_places import rising
from cutlayer.record.row_lines import line_of, read_rows
from cutlayer.reports.page import views_of
from cutlayer.reports.read_runs import read_run
from helpers import Simulated, small_job


def kept(job: Job) -> Leakage | None:
    """The audit of a job, from the cache."""
    subject = subject_of(job)
    assert subject is not None
    return leakage_of(subject, first_weights(job))


LITTLE = Effort(public=48, attacked=12, decoder_steps=6, inversion_steps=3, inverted=2)


def job_on(model: Path, *settings: str, method: str = "sflora") -> Job:
    values = {
        "model": {"path": str(model), "cut": 1},
        "data": {"train_samples": 20},
        "training": {"batch_size": 8},
        "method": method,
    }
    return change_job(make_job(values), settings)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT of 16 tokens and three blocks, all random."""
    return tiny_models.write(tmp_path_factory.mktemp("model") / "vit", "vit")


@pytest.fixture(scope="module")
def found(vit: Path) -> Audit:
    return audit(job_on(vit), cuts=[0, 2], tokens=[4, None], bits=[2], effort=LITTLE)


def test_every_cell_is_attacked_and_nothing_else(found: Audit) -> None:
    table = found.leakage
    assert (table.cuts, table.tokens, table.bits) == ((0, 2), (4, 16), (2, 32))
    impossible = np.zeros((2, 2, 2), dtype=bool)
    impossible[0, 0] = True  # no block before cut 0 ranks tokens
    for name in ("psnr_db", "reidentified", "matched", "inverted_psnr_db", "bytes_per_sample"):
        assert (np.isnan(getattr(table, name)) == impossible).all(), name
    assert (table.bytes_per_sample[:, 1, 1] > table.bytes_per_sample[:, 1, 0]).all()
    assert table.chance == 1 / 12
    assert set(table.gradient_labels) == {0, 2}
    assert table.members is None
    assert set(table.anchors) == {"blurred image", "label only"}


def test_a_notebook_shows_an_audit_as_its_table_and_sentences(found: Audit) -> None:
    assert len(repr(found.leakage)) < 400
    shown = found._repr_html_()
    assert "re-identified" in shown
    assert all(html.escape(line) in shown for line in view.sentences(found.leakage))


def test_an_embedding_that_is_linear_gives_its_images_away(found: Audit) -> None:
    table = found.leakage
    whole = table.psnr_db[0, 1, 1]
    assert whole > 30
    assert whole > table.anchors["blurred image"].psnr_db
    assert table.reidentified[0, 1, 1] == table.matched[0, 1, 1] == 1
    assert table.psnr_db[0, 1, 0] < whole - 1
    assert table.psnr_db[1, 1, 1] > table.psnr_db[1, 0, 1]


def test_an_audit_is_found_again_for_the_same_job_and_no_other(found: Audit, vit: Path) -> None:
    again = kept(job_on(vit))
    assert again is not None
    assert np.array_equal(again.psnr_db, found.leakage.psnr_db, equal_nan=True)
    assert again.anchors == found.leakage.anchors
    assert kept(job_on(vit, "privacy.activation_noise=0.5")) is None
    assert kept(job_on(vit, "method.uplink.rotate=true")) is None
    # Tokens, bits and the cut are what is attacked, not what is known of the job.
    assert kept(job_on(vit, "method.uplink.bits=8", "model.cut=2")) is not None


def test_a_job_that_begins_with_an_adapter_is_attacked_with_it(
    found: Audit, vit: Path, tmp_path: Path
) -> None:
    plain = job_on(vit)
    model = load_model(plain.model, 10, plain.seed)
    moved = {name: one + 0.5 for name, one in model.new_adapter(1).items()}
    save_adapter(moved, model, tmp_path / "adapter")
    job = job_on(vit, f"model.adapter={tmp_path / 'adapter'}")
    assert kept(job) is None
    other = audit(job, cuts=[2], tokens=[4], bits=[2], effort=LITTLE).leakage
    assert other.adapter == first_weights(job)
    assert other.information[0, 0] != pytest.approx(found.leakage.information[1, 0], rel=1e-3)
    assert kept(plain) is not None
    # The blocks of frozen devices carry no adapter.
    assert first_weights(change_job(job, ["method.device=frozen"])) is None


def test_noise_costs_the_attacker_and_brings_a_bound(found: Audit, vit: Path) -> None:
    job = job_on(vit, "privacy.activation_noise=1")
    noisy = audit(job, cuts=[0], tokens=[None], bits=[32], effort=LITTLE).leakage
    assert noisy.psnr_db[0, 0, 0] < found.leakage.psnr_db[0, 1, 1] - 10
    assert found.leakage.bound_psnr_db() is None
    bound = noisy.bound_psnr_db()
    assert bound is not None
    more = dataclasses.replace(noisy, noise=4.0).bound_psnr_db()
    assert more is not None
    assert (more < bound).all()


def test_the_same_audit_twice_finds_the_same(found: Audit, vit: Path) -> None:
    again = audit(job_on(vit), cuts=[2], tokens=[4], bits=[2], effort=LITTLE).leakage
    for name in ("psnr_db", "matched", "inverted_psnr_db", "information"):
        assert getattr(again, name)[0, 0] == pytest.approx(getattr(found.leakage, name)[1, 0])


def test_with_a_fitted_codec_rates_are_attacked(vit: Path) -> None:
    job = job_on(vit, "method.uplink={codec: klt}", "method.device=frozen")
    grid = {"cuts": [1], "tokens": [4], "bits": [0.3, 1.2]}
    table = audit(job, **grid, effort=dataclasses.replace(LITTLE, decoder_steps=0)).leakage
    assert table.bits == (0.3, 1.2, 32)
    assert (np.diff(table.bytes_per_sample[0, 0]) > 0).all()
    assert table.gradient_labels == {}  # a frozen device gets no gradient

    # Between two audited rates as the worse of both; beyond them nothing is known.
    _leaks(job, table, np.array([[[0.2, 0.6, 0.9], [0.3, 0.3, 0.3]]]))
    finer = calibrate(job, samples=16, cuts=[1], tokens=[4], bits=[0.1, 0.3, 0.6, 1.2])
    shares = reidentified_at(finer, kept(job))[0, 0]
    assert shares[1:].tolist() == [0.2, 0.6, 0.6, 0.9]
    assert np.isnan(shares[0])


def test_gradients_that_go_up_from_a_tail_tell_labels(vit: Path) -> None:
    job = job_on(vit, "model.tail=1", "method.device=frozen")
    table = audit(job, cuts=[1], tokens=[None], bits=[32], effort=LITTLE).leakage
    assert set(table.gradient_labels) == {1}
    assert table.gradient_labels[1].direction > 0.6


def test_fisher_information_is_that_of_the_jacobian(vit: Path) -> None:
    job = job_on(vit)
    model = load_model(job.model, 10, 0)
    adapter = model.new_adapter(0)
    victim = Victim(job, model, Preprocessor(model.spec), adapter, {}, 32.0, 10)
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    jacobian = torch.autograd.functional.jacobian(lambda x: sent_of(victim, x, 1, 4), image)
    sent = sent_of(victim, image, 1, 4).detach()
    jacobian = jacobian.reshape(sent.numel(), image.numel())
    square = sent.square().mean()
    own = jacobian.square().sum() / square / image.numel()
    # The noise is as large as the activations: log r has the gradient J^T z / (k r^2).
    size = (jacobian.T @ sent.flatten()) / sent.numel() / square
    by_size = 2 * sent.numel() * size.square().sum() / image.numel()
    terms = information(victim, image, 1, 4, probes=400)
    assert terms == pytest.approx((own.item(), by_size.item()), rel=0.1)


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_tokens_without_a_place_get_the_likeliest_rising_ones(K: int, more: int, seed: int) -> None:
    scores = torch.randn(2, K, K + more, generator=torch.Generator().manual_seed(seed))
    for one, places in zip(scores, rising(scores), strict=True):
        best = max(
            itertools.combinations(range(K + more), K),
            key=lambda chosen: sum(float(one[k, at]) for k, at in enumerate(chosen)),
        )
        assert tuple(places.tolist()) == best


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.data())
def test_the_area_under_a_curve_is_that_of_scipy(scores: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(scores) - 1))
    positive = np.arange(len(scores)) < count
    values = np.array(scores, dtype=float)
    u = stats.mannwhitneyu(values[positive], values[~positive]).statistic
    assert area(values, positive) == pytest.approx(u / count / (len(scores) - count))


def test_likeness_is_of_images() -> None:
    images = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert psnr_db(images + 0.1, images) == pytest.approx(20, abs=1e-3)
    assert reidentified(0.1 * images + 0.4, images) == 1  # faint, and still its own
    assert reidentified(images.roll(1, 0), images) == 0
    assert matched(images.flatten(2), images.flatten(2)) == 1
    assert structural_similarity(images, images) == pytest.approx(1)
    assert np.isnan(structural_similarity(images[..., :4, :4], images[..., :4, :4]))


def test_without_torchmetrics_ssim_is_said_not_to_be_measured(
    vit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    words = ["--cuts", "1", "--tokens", "all", "--bits", "32", "--decoder-steps", "0"]
    words += ["--inversion-steps", "0", "--public", "16", "--attacked", "4"]
    assert run(monkeypatch, "audit", "--set", f"model.path={vit}", *words) == 0
    assert "SSIM was not measured: pip install 'cutlayer[audit]'" in capsys.readouterr().out


def test_what_the_label_alone_gives_is_the_mean_of_its_images() -> None:
    images, labels = torch.rand(5, 1, 4, 4), np.array([0, 0, 1, 1, 1])
    made = by_label(images, labels, np.array([1, 2]))
    assert torch.equal(made[0], images[2:].mean(0))
    assert torch.equal(made[1], images.mean(0))


@pytest.fixture(scope="module")
def run_audited(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    trained = simulated(
        small_job("method.tokens.keep=12", "method.uplink.bits=4", method="tsflora")
    ).folder
    folder = tmp_path_factory.mktemp("audited") / "run"
    shutil.copytree(trained, folder)
    return audit(folder, effort=LITTLE)


def test_a_run_is_attacked_as_it_was_trained_and_keeps_its_audit(run_audited: Audit) -> None:
    table = run_audited.leakage
    assert (table.cuts, table.tokens[0], table.bits) == ((2,), 12, (4, 32))
    assert table.adapter is not None
    assert table.members is not None
    assert table.members.members == table.members.others == 20
    assert 0 <= table.members.caught <= 1
    assert run_audited.record.name == "audit.json"
    assert run_audited.sheet == run_audited.record.with_name("audit.png")


def test_members_are_the_samples_of_devices_that_took_part(tmp_path: Path) -> None:
    job = small_job("devices.per_round=1", "training.rounds=1", "data.test_samples=64")
    folder = simulate(job, out=tmp_path / "run").folder
    found = tell_members(load_trained(folder))
    assert found is not None
    (row,) = read_rows(folder)
    assert found.members == found.others == sum(row.samples_trained.values()) < 64
    rewritten = line_of(dataclasses.replace(row, lost=list(row.decisions)))
    (folder / "rounds.jsonl").write_text(rewritten + "\n")
    assert tell_members(load_trained(folder)) is None


@pytest.mark.usefixtures("figures")
def test_a_report_shows_the_audit_of_a_run(run_audited: Audit, vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run_audited.record.parent, tmp_path / "run")
    sheet = audit(
        job_on(vit), cuts=[1], tokens=[None], bits=[32], effort=LITTLE, sheet=folder / "audit.png"
    ).sheet
    assert sheet == folder / "audit.png"
    (view,) = [one for one in views_of(read_run(folder, print)) if one["id"] == "leakage"]
    assert view["data"]["picture"].startswith("data:image/png;base64,")
    assert len(view["data"]["rows"]) == 4 + 3  # cells, two anchors, drawing lots
    assert any("members by the adapter's loss" in note for note in view["data"]["notes"])
    page = cutlayer.report(folder, out=tmp_path / "report.html", images=0).page.read_text()
    assert "What a curious server makes of images" in page

    (folder / "audit.json").write_text("{}")
    said: list[str] = []
    assert read_run(folder, said.append).audit is None
    assert "audit.json is no whole record" in said[0]


def test_a_browser_draws_the_audit(browser: Any, run_audited: Audit, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    cutlayer.report(run_audited.record.parent, out=out, images=0)
    opened = Opened(browser, out.as_uri())
    rows = opened.page.locator('section[data-kind="leakage"] tbody tr')
    assert rows.count() == 4 + 3
    assert not opened.complaints


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"reidentified": [[[2.0]]]},
        {"psnr_db": [[[None]]]},
        {"cuts": [3, 1]},
        {"attacked": 0},
        {"information": [[1.0, 2.0]]},
        {"subject": "demo"},
    ],
)
def test_a_damaged_record_is_one_sentence(vit: Path, tmp_path: Path, change: dict) -> None:
    path = tmp_path / "record.json"
    audit(
        job_on(vit),
        cuts=[1],
        tokens=[None],
        bits=[32],
        effort=dataclasses.replace(LITTLE, decoder_steps=0, inversion_steps=0),
        out=path,
    )
    assert np.isnan(read_leakage(path).inverted_psnr_db).all()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match="is no whole record") as error:
        read_leakage(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "options", "sentence"),
    [
        (["method=fedlora"], {}, "does not cut the model"),
        ([], {"effort": Effort(attacked=399)}, "attacked: 399 images cannot be attacked"),
        ([], {"effort": Effort(attacked=1)}, "attacked: 1 images cannot be attacked"),
        ([], {"effort": Effort(public=4)}, "public: decoders cannot be trained on 4 images"),
        ([], {"cuts": [9]}, "cuts: 9 is not within"),
    ],
)
def test_what_cannot_be_audited_is_said_in_one_sentence(
    vit: Path, settings: list[str], options: dict, sentence: str
) -> None:
    with pytest.raises(CutlayerError, match=sentence) as error:
        audit(change_job(job_on(vit), settings), **options)
    assert "\n" not in str(error.value)


def test_texts_are_no_images_to_make_again(tmp_path: Path) -> None:
    model = tiny_models.write(tmp_path / "bert", "bert")
    with pytest.raises(CutlayerError, match="reads texts"):
        audit(job_on(model, "model.max_tokens=12"))


def test_attacked_images_are_none_of_those_that_decoders_learn_from(
    vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def note(victim, grid, public, attacked, *rest):  # type: ignore[no-untyped-def]
        seen.update(public=public.rows, attacked=attacked.rows)
        raise RunError("enough")

    monkeypatch.setattr("cutlayer.privacy.audit.attack", note)
    with pytest.raises(RunError, match="enough"):
        audit(job_on(vit))
    pool = len(load_calibration(job_on(vit).data, 0))
    assert len({*seen["public"], *seen["attacked"]}) == pool
    assert len(seen["public"]) + len(seen["attacked"]) == pool


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["cutlayer", *map(str, words)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "160")
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_verb_prints_a_table_with_its_anchors(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--cuts", "1", "--tokens", "4", "--bits", "4", "--public", "16", "--attacked", "4"]
    words += ["--decoder-steps", "2", "--inversion-steps", "1", "--out", tmp_path / "a.json"]
    words += ["--sheet", tmp_path / "pictures" / "a.png", "--set", f"model.path={vit}"]
    assert run(monkeypatch, "audit", *words, "--set", "model.cut=1") == 0
    printed = capsys.readouterr().out
    for word in ("re-identified", "blurred image", "label only", "drawing lots", "25.0"):
        assert word in printed
    assert (tmp_path / "pictures" / "a.png").is_file()
    assert read_leakage(tmp_path / "a.json").attacked == 4


def test_a_run_has_its_own_job(
    run_audited: Audit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", run_audited.record.parent, "--set", "seed=1"]
    assert run(monkeypatch, *words) == 2
    assert "leave --set out" in capsys.readouterr().err


AUTO = ("method.allocation.quality_min=0.05", "method.allocation.bytes_weight=1e-6")


@pytest.fixture(scope="module")
def auto_job(vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A calibrated and audited job whose cheapest setting leaks the most of all."""
    job = change_job(job_on(vit, *AUTO, method="auto"), ["devices.count=2", "world={}"])
    job = change_job(job, ["data.train_samples=60", "data.partition.min_samples=4"])
    calibrate(job, samples=16, cuts=[1, 2], tokens=[4, None], bits=[2, 8])
    few = dataclasses.replace(LITTLE, decoder_steps=0, inversion_steps=0)
    table = audit(job, cuts=[1, 2], tokens=[4, None], bits=[2, 8], effort=few).leakage
    _leaks(job, table, np.linspace(0.9, 0.2, 12).reshape(2, 2, 3))
    return job


def _leaks(job: Job, table: Leakage, shares: np.ndarray) -> None:
    changed = dataclasses.replace(table, reidentified=shares)
    write_leakage(changed, cache_file(table.subject))


def _settings(job: Job) -> set[tuple[int, int | None, int]]:
    decisions = plan(job).decided.decisions.values()
    return {(one.cut, one.tokens, one.bits_up) for one in decisions}


def test_auto_takes_the_cheapest_setting_that_leaks_little_enough(auto_job: Job) -> None:
    assert _settings(auto_job) == {(1, 4, 2)}
    limited = change_job(auto_job, ["method.allocation.leakage_max=0.55"])
    # At cut 2 with 4 tokens in 2 bits: 0.9 less six steps of 0.7 / 11.
    assert _settings(limited) == {(2, 4, 2)}
    said = " ".join(plan(limited).sentences())
    assert "of 12 images like these 51.8 % or fewer were re-identified at these settings" in said
    assert "by decoders trained for 0 steps on 48 others" in said


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["leakage_max=0.1"], "0.1 is below what every setting .* the least is 0.2"),
        (["leakage_max=0.5", "cuts=[1]"], "is below what every setting"),
    ],
)
def test_auto_says_where_nothing_leaks_little_enough(
    auto_job: Job, settings: list[str], sentence: str
) -> None:
    job = change_job(auto_job, [f"method.allocation.{one}" for one in settings])
    with pytest.raises(AllocationError, match=sentence) as error:
        plan(job)
    assert "\n" not in str(error.value)


def test_auto_says_what_was_not_audited(auto_job: Job, vit: Path) -> None:
    limited = change_job(auto_job, ["method.allocation.leakage_max=0.5"])
    noisy = change_job(limited, ["privacy.activation_noise=0.1"])
    calibrate(noisy, samples=16, cuts=[1, 2], tokens=[4, None], bits=[2, 8])
    with pytest.raises(AllocationError, match=r"was never attacked .* run cutlayer audit"):
        plan(noisy)
    few = dataclasses.replace(LITTLE, decoder_steps=0, inversion_steps=0)
    audit(noisy, cuts=[0], tokens=[None], bits=[2], effort=few)
    with pytest.raises(AllocationError, match="no setting of enough quality was audited"):
        plan(noisy)
