"""What a server sends of its model, field by field: a device has a sentence for it, or works."""

import json
import math
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")

from cutlayer.errors import CutlayerError, ModelError
from cutlayer.job import Job, dump_job
from cutlayer.model.files import find_file
from cutlayer.model.part import write_part
from cutlayer.network.device import device_requests
from cutlayer.network.file_transfer import describe_files
from cutlayer.network.part_files import part_of
from cutlayer.network.transport.messages import Task
from helpers import small_job

MODELS: dict[str, dict[str, Any]] = {
    "demo": {"method": "sflora"},
    "resnet18": {"method": {"name": "sflora", "train": "full"}},
}
CONFIGS = ("config.json", "preprocessor_config.json")
WEIGHTS = "model.safetensors"
# Fields that no checkpoint of ours has, and that transformers would read.
OTHERS = ("num_labels", "id2label", "dtype", "quantization_config", "auto_map", "architectures")
FEW: tuple[Any, ...] = (-1, 10**400, {"a": 1})
MANY: tuple[Any, ...] = (
    *FEW, math.nan, "../../x", 0, 1, 7, 2**31, 2**63, 1e308, -0.5, 5e-324, "", "x", [], [1, 2],
    [[]], {}, None, True, [0] * 5000,
)  # fmt: skip


@pytest.fixture
def limited() -> Iterator[None]:
    """A minute at most: what hangs fails."""

    def hangs(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def part(folder: Path, path: str) -> tuple[Job, Task]:
    """A job with a model, and the task of a device that has its part in `folder`."""
    weights = "pretrained" if path == "demo" else "random"
    job = small_job(
        "devices.count=3", "data.train_samples=60", "data.test_samples=10", **MODELS[path],
        model={"path": path, "cut": 1, "weights": weights},
    )  # fmt: skip
    files = describe_files(write_part(folder, job.model, job.seed, part_of(job)))
    classes = [str(label) for label in range(10)]
    return job, Task(0, dump_job(job), "ab", classes, job.cut, files)


def check(job: Job, task: Task, folder: Path, what: str) -> bool:
    """Whether a device can be made of its part; fails where the reason is no sentence."""
    said = ""
    try:
        device_requests.make_device(job, task, folder, None)
    except CutlayerError as error:
        said = str(error)
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert "\n" not in said
    return not said


def check_all(folder: Path, path: str, values: tuple[Any, ...]) -> tuple[int, int]:
    """How many of the changed files make a device, and how many do not."""
    job, task = part(folder, path)
    assert check(job, task, folder, "as it is")
    counts = [0, 0]
    for name in CONFIGS:
        if find_file(str(folder), name) is None:
            continue
        whole = json.loads((folder / name).read_text())
        for field in (*whole, *OTHERS):
            for value in values:
                (folder / name).write_text(json.dumps({**whole, field: value}))
                counts[check(job, task, folder, f"{name}: {field}: {str(value)[:20]}")] += 1
        (folder / name).write_text(json.dumps(whole))
    return counts[1], counts[0]


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("path", MODELS)
def test_any_value_of_a_models_configs_is_a_sentence_or_a_device(path: str, tmp_path: Path) -> None:
    made, refused = check_all(tmp_path, path, FEW)
    assert made > 10
    assert refused > 10


@pytest.mark.slow
@pytest.mark.parametrize("path", MODELS)
def test_many_values_of_a_models_configs_are_a_sentence_or_a_device(
    path: str, tmp_path: Path
) -> None:
    check_all(tmp_path, path, MANY)


Header = dict[str, dict[str, Any]]


def _first(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Header], object]:
    return lambda header: edit(next(iter(header.values())))


HARMLESS = ("whole numbers", "a field more")
TENSORS: dict[str, Callable[[Header], object]] = {
    "a type that is none": _first(lambda one: one.update(dtype="X")),
    "whole numbers": _first(lambda one: one.update(dtype="I32")),
    "another shape": _first(lambda one: one.update(shape=[1, *one["shape"][::-1]])),
    "a shape of 2^63": _first(lambda one: one.update(shape=[2**63])),
    "a negative shape": _first(lambda one: one.update(shape=[-1])),
    "offsets beyond the file": _first(lambda one: one.update(data_offsets=[0, 2**62])),
    "offsets that go back": _first(lambda one: one["data_offsets"].reverse()),
    "a field more": _first(lambda one: one.update(more=1)),
    "a field less": _first(lambda one: one.pop("shape")),
    "no tensors": lambda header: header.clear(),
    "a tensor less": lambda header: header.popitem(),
    "a tensor twice": lambda header: header.update(again=next(iter(header.values()))),
}


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("what", TENSORS)
def test_weights_of_any_header_are_a_sentence_or_a_device(what: str, tmp_path: Path) -> None:
    job, task = part(tmp_path, "demo")
    file = (tmp_path / WEIGHTS).read_bytes()
    (length,) = struct.unpack_from("<Q", file)
    header = json.loads(file[8 : 8 + length])
    TENSORS[what](header)
    packed = json.dumps(header).encode()
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(packed)) + packed + file[8 + length :])
    assert check(job, task, tmp_path, what) == (what in HARMLESS)


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("name", [*CONFIGS, WEIGHTS])
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b"\xff" * 100, b"8" * 5000, b"null"])
def test_a_file_of_a_part_that_is_none_is_a_sentence(
    name: str, content: bytes, tmp_path: Path
) -> None:
    job, task = part(tmp_path, "demo")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError):
        device_requests.make_device(job, task, tmp_path, None)
