"""Light devices in a network run: the frames and the end of torch devices, in one fleet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from PIL import Image

import tiny_models
from cutlayer import JoinOptions, calibrate, change_job, join, make_job
from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.rounds.result import Result
from fleet_helpers import crowd, served
from helpers import largest_difference, small_job

NAMES = ("Bag", "Dress")
SAMPLES = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of four devices."""
    rng = np.random.default_rng(0)
    found = []
    for device in range(4):
        folder = tmp_path_factory.mktemp(f"device{device}")
        for name in NAMES:
            (folder / name).mkdir()
            for number in range(SAMPLES // 2):
                pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
        found.append(folder)
    return found


def run(job: Job, out: Path, folders: list[Path], light: tuple[int, ...], **options: Any) -> Result:
    with crowd() as devices:

        def bring(port: int) -> None:
            for number, folder in enumerate(folders):
                devices.join(port, number, data=folder, light=number in light)

        found = served(job, out, bring, virtual=job.world is not None, **options)
    assert devices.errors == {}
    assert not any(row.lost for row in found.rows)
    return found


@pytest.mark.parametrize("method", ["st-sflora", "auto"])
def test_light_and_torch_devices_end_where_torch_devices_do(
    tmp_path: Path, folders: list[Path], method: str
) -> None:
    """They are probed, choose tokens, and send floats or codes."""
    job = small_job("training.rounds=1", method=method, world={})
    torch = run(job, tmp_path / "torch", folders, ())
    both = run(job, tmp_path / "both", folders, (1, 2))
    assert largest_difference(torch.adapter, both.adapter) <= 1e-4
    for one, other in zip(torch.rows, both.rows, strict=True):
        assert one.decisions == other.decisions
        assert one.traffic == other.traffic


@pytest.mark.parametrize("changes", [{}, {"solver": "own_solvers:a_rate_each"}])
def test_a_basis_and_named_samples_reach_light_devices_and_outlive_a_resumption(
    tmp_path: Path, folders: list[Path], changes: dict[str, str]
) -> None:
    """Also where each device sends at a rate of its own, of the basis of its cut."""
    job = small_job("training.rounds=2", f"method.allocation={changes}", method="lean", world={})
    torch = run(job, tmp_path / "torch", folders, ())
    run(change_job(job, ["training.rounds=1"]), tmp_path / "both", folders, (1, 2))
    both = run(job, tmp_path / "both", folders, (1, 2), again=True, rounds=2)
    # A code at a boundary moves the basis that is fitted to it, and with it all that follows.
    for one, other in zip(torch.rows, both.rows, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-3)
        sent = [sum(map(sum, row.traffic.values())) for row in (one, other)]
        assert sent[1] == pytest.approx(sent[0], rel=0.02)


def test_auto_gives_light_devices_the_programs_of_the_precision_that_it_chose(
    tmp_path: Path, folders: list[Path], cache_of_a_file: Path
) -> None:
    """Torch devices compute in float32, and what a light device said as it joined is overruled."""
    job = small_job(
        "training.rounds=2",
        "devices.count=3",
        "model.cut=1",
        "method.allocation={precisions: [float32, int8], cuts: [1], tokens: [8], bits: [8]}",
        "method.allocation.quality_min=0.01",
        method="auto",
        world={"fleet": {"int8_speed": 3}},
    )
    calibrate(job, samples=16, cuts=[1], tokens=[8], bits=[8])
    with crowd() as devices:

        def bring(port: int) -> None:
            devices.join(port, 0, data=folders[0], light=False)
            devices.join(port, 1, data=folders[1], light=True)
            devices.join(port, 2, data=folders[2], light=True, precision="float16")

        found = served(job, tmp_path / "run", bring, virtual=True)
    assert devices.errors == {}
    for row in found.rows:
        chosen = {device: one.precision for device, one in row.decisions.items()}
        assert chosen == {0: "float32", 1: "int8", 2: "int8"}
        assert not row.lost
    held = {path.name for path in (cache_of_a_file / "parts").glob("*/*.bin")}
    assert held >= {"int8.bin", "float16.bin", "float32.bin"}


def test_texts_are_read_by_light_devices_as_by_torch(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "fine", "bad", "poor", "film")
    texts = {"praise": "good film", "blame": "bad poor film poor", "more praise": "fine good fine"}
    model = tiny_models.write(tmp_path / "bert", "bert")
    (model / "vocab.txt").write_text("\n".join(words))
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    lines = ["text,label", *(f"{text},{label}" for label, text in texts.items() for _ in range(6))]
    table = tmp_path / "texts.csv"
    table.write_text("\n".join(lines))
    job = make_job(
        {
            "model": {"path": str(model), "max_tokens": 10, "cut": 2},
            "data": {"source": "table", "path": str(table)},
            "devices": {"count": 2},
            "training": {"rounds": 1, "batch_size": 4, "pool": 1},
            "method": {
                "name": "st-sflora",
                "allocation": {"solver": "equal"},
                "tokens": {"keep": 2, "score": "received"},
                "uplink": {"bits": 8, "levels": "gaussian"},
            },
        }
    )
    torch = run(job, tmp_path / "torch", [table, table], ())
    both = run(job, tmp_path / "both", [table, table], (0,))
    assert largest_difference(torch.adapter, both.adapter) <= 1e-4
    assert [row.traffic for row in torch.rows] == [row.traffic for row in both.rows]


def test_a_method_that_sends_gradients_refuses_light_devices(
    tmp_path: Path, folders: list[Path]
) -> None:
    job = small_job("training.rounds=1", "devices.count=2", method="sflora")
    with crowd() as devices:

        def bring(port: int) -> None:
            devices.join(port, 0, data=folders[0], light=True)
            devices.join(port, 1, data=folders[1])

        served(job, tmp_path / "run", bring, devices=1)
    assert "sends gradients to devices that train" in str(devices.errors["device-0000"])


def test_a_light_device_measures_itself_and_leaves(tmp_path: Path, folders: list[Path]) -> None:
    job = small_job("training.rounds=1", "devices.count=2", method="st-sflora-full")
    with crowd() as devices:

        def bring(port: int) -> None:
            devices.join(port, 0, data=folders[0], light=True, probe=True)
            devices.join(port, 1, data=folders[1], light=True, precision="int8")

        found = served(job, tmp_path / "run", bring, devices=1)
    assert devices.errors == {}
    assert list(found.rows[0].traffic) == [1]
    assert any("samples a second" in line for line in devices.said)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"light": True}, "--share: a light device"),
        ({"light": True, "data": ".", "model": "dinov2"}, "--model: a light device"),
        ({"light": False, "precision": "int8"}, "cpu and int8 are for light devices"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_connects(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RunError, match=sentence):
        join(JoinOptions("127.0.0.1:1", name="a", **options))
