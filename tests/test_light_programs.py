"""Programs of light devices: what they compute is what torch computes, and what is refused."""

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from cutlayer import export_device
from cutlayer.data import images
from cutlayer.errors import CutlayerError, JobError, ModelError, RefusedError, RunError
from cutlayer.job import Job
from cutlayer.light.graph import Compute, ReadyGraph, check_provider
from cutlayer.light.graph_check import check_graph, check_size
from cutlayer.light.job import Images, LightJob, Uplink
from cutlayer.light.passes import PASS_TOKENS
from cutlayer.light.program import Program
from cutlayer.model.families import describe
from cutlayer.model.part import write_part
from cutlayer.network.device import light_participant
from cutlayer.network.device.light_participant import LightParticipant
from cutlayer.network.transport.messages import DeviceProgram, LightTask, PartFile
from cutlayer.programs.graph import FLOAT, Graph
from cutlayer.programs.make import programs_of
from cutlayer.programs.quantizer import add_quantizer
from cutlayer.programs.selection import Sequence, add_selection
from cutlayer.resize import Fit
from cutlayer.settings.method import Quantizer, Tokens
from cutlayer.train.check_light import why_not
from cutlayer.wire import rotate
from cutlayer.wire.packing import pack_bits, pack_ranges
from cutlayer.wire.program_ports import Coding, Ports, ProgramKey
from cutlayer.wire.quantize import quantize
from cutlayer.wire.tokens import select
from helpers import small_job
from tiny_models import write

SEED = 7


def test_what_a_light_device_installs_is_held_to_the_versions_of_the_package() -> None:
    root = Path(__file__).resolve().parents[1]
    lines = (root / "requirements-light.txt").read_text().splitlines()
    due = {line for line in lines if not line.startswith("#")}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {*project["dependencies"], *extras["device"], *extras["onnx"]}
    assert due <= known
    needs_torch = {"huggingface_hub", "pydantic", "pyyaml", "safetensors", "torch", "transformers"}
    base = {one for one in project["dependencies"] if one.partition(">")[0] not in needs_torch}
    assert base | set(extras["device"]) <= due


def empty(**inputs: list[int | str]) -> Graph:
    """A graph with float inputs, nothing in it yet."""
    graph = Graph.empty()
    for name, dims in inputs.items():
        graph.take_input(name, FLOAT, dims)
    return graph


def computed(graph: Graph, **given: Any) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(graph.model.SerializeToString())
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


@pytest.mark.parametrize("levels", ["uniform", "gaussian"])
@pytest.mark.parametrize("per", ["token", "tensor"])
@pytest.mark.parametrize(("bits", "width", "turns"), [(1, 24, False), (4, 64, True), (8, 40, True)])
def test_codes_of_a_program_are_those_of_torch(
    levels: Any, per: Any, bits: int, width: int, turns: bool
) -> None:
    rng = np.random.default_rng(bits)
    rows = rng.normal(size=(50, width)) * 10.0 ** rng.uniform(-3, 3, size=(50, 1))
    rows[0], rows[1] = 0.0, 5.0  # no range at all
    x = rows.astype(np.float32)
    graph = empty(rows=["n", width])
    add_quantizer(graph, "rows", width, Coding("levels", bits, levels, per, turns), SEED)
    found = computed(graph, rows=x)
    ranges = [found[name] for name in ("low", "high", "rms") if name in found]
    body = pack_ranges(found["scale"][0], *ranges) + pack_bits(found["codes"].reshape(-1), bits)
    turned = rotate.rotate(torch.from_numpy(x), SEED) if turns else torch.from_numpy(x)
    expected = quantize(turned, Quantizer(bits=bits, levels=levels, per=per))
    unlike = sum(one != other for one, other in zip(body, expected, strict=True))
    # A rotation sums in another order: codes and ranges at a boundary may differ.
    assert unlike <= (0.01 * len(body) if turns else 0)


def test_float16_neighbours_are_found_without_an_operator_for_them() -> None:
    """The range of a token is rounded outwards, from every float16 there is."""
    every = np.arange(2**15, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].astype(np.float32)
    between = finite[:-1] + (finite[1:] - finite[:-1]) * np.float32(0.3)
    low = -between  # rounding to the nearest falls short of it
    rows = np.stack([low, np.full_like(low, 65504.0)], 1)
    graph = empty(rows=["n", 2])
    add_quantizer(graph, "rows", 2, Coding("levels", 8), SEED)
    found = computed(graph, rows=rows)
    expected = quantize(torch.from_numpy(rows), Quantizer(bits=8))
    assert (
        pack_ranges(found["scale"][0], found["low"], found["high"]) == expected[: 4 + 4 * len(low)]
    )


@pytest.mark.parametrize("rest", ["merge", "drop"])
@pytest.mark.parametrize("masked", [False, True])
def test_tokens_are_selected_as_by_torch(rest: Any, masked: bool) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 9, 4)).astype(np.float32)
    scores = rng.uniform(size=(3, 8)).astype(np.float32)
    scores[0] = 0.25  # ties go to the lower index
    scores[1, 3:] = 0.0  # nothing to weigh the rest by
    mask = np.ones((3, 9), np.bool_)
    if masked:
        mask[2, 3:] = False  # fewer tokens than are kept
        scores[2, 2:] = 0.0
    graph = empty(hidden=["b", "t", 4], scores=["b", "n"])
    keep = graph.take_input("keep", TensorProto.INT64, [1])
    name = graph.take_input("mask", TensorProto.BOOL, ["b", "t"]) if masked else None
    found = add_selection(graph, Sequence("hidden", name), "scores", keep, 1, rest == "merge")
    assert found.kept is not None
    graph.give_output("out", found.hidden, FLOAT, ["b", "k", 4])
    graph.give_output("kept", found.kept, TensorProto.INT64, ["b", "k"])
    if found.mask is not None:
        graph.give_output("out_mask", found.mask, TensorProto.BOOL, ["b", "k"])
    extra = {"mask": mask} if masked else {}
    given = {"hidden": hidden, "scores": scores, "keep": np.array([5]), **extra}
    outputs = computed(graph, **given)
    expected = select(
        torch.from_numpy(hidden),
        torch.from_numpy(scores),
        1,
        Tokens(keep=5, rest=rest),
        torch.from_numpy(mask) if masked else None,
    )
    assert np.array_equal(outputs["kept"], expected.kept.numpy())
    valid = np.ones(outputs["out"].shape[:2], np.bool_)
    if expected.mask is not None:
        valid = expected.mask.numpy()
        assert np.array_equal(outputs["out_mask"], valid)
    assert np.allclose(outputs["out"][valid], expected.hidden.numpy()[valid], atol=1e-6)


def small_graph(change: Callable[[onnx.ModelProto], object] = lambda model: None) -> bytes:
    graph = empty(images=["b", 3])
    graph.give_output("energy", "images", FLOAT, ["b", 3])
    change(graph.model)
    return graph.model.SerializeToString()


def external(location: str, offset: int, length: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer.add()
        tensor.name, tensor.data_type = "w", TensorProto.FLOAT
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)

    return change


def of_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def node_of_domain(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Any", ["images"], ["y"], domain="com.example"))


def newer(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def inner_graph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner))


def function(model: onnx.ModelProto) -> None:
    model.functions.add().name = "own"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (of_domain, "only ONNX's own are allowed"),
        (node_of_domain, "only ONNX's own are allowed"),
        (newer, "above 20"),
        (inner_graph, "inner graphs"),
        (function, "functions of its own"),
        (external("/etc/passwd", 0, 4), "not within its weights"),
        (external("../weights.bin", 0, 4), "not within its weights"),
        (external("weights.bin", 60, 8), "not within its weights"),
        (external("weights.bin", -4, 8), "not within its weights"),
    ],
)
def test_a_graph_that_does_more_than_compute_is_refused(
    change: Callable[[onnx.ModelProto], object], sentence: str
) -> None:
    with pytest.raises(RefusedError, match=sentence):
        check_graph(small_graph(change), "weights.bin", 64)
    check_graph(small_graph(external("weights.bin", 60, 4)), "weights.bin", 64)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_graphs_are_refused_in_a_sentence(data: st.DataObject) -> None:
    whole = bytearray(small_graph(external("weights.bin", 0, 4)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with suppress(RefusedError):
        check_graph(bytes(whole[:cut]), "weights.bin", 64)


def light_job(**fields: Any) -> LightJob:
    uplink = Uplink("quantize", "uniform", "token", False, True, False, 0.5, 0.5)
    images = Images(28, 28, False, "bilinear", 1)
    sizes = {"prefix": 1, "candidates": 49, "width": 128}
    plain = {"seed": 0, "batch_size": 8, "local_epochs": 1, "merges": True, "precision": "float32"}
    return LightJob(**{**plain, **sizes, "uplink": uplink, "images": images, **fields})


SMALL = Ports(("images",), ("energy",))


def ready(folder: Path, graph: bytes, ports: Ports = SMALL) -> ReadyGraph:
    (folder / "weights.bin").write_bytes(b"")
    (folder / "graph.onnx").write_bytes(graph)
    return ReadyGraph(folder / "graph.onnx", folder / "weights.bin", ports, Compute(threads=1))


@pytest.mark.parametrize(
    "ports", [Ports(("ids",), ("energy",)), Ports(("images",), ("activations",))]
)
def test_a_graph_of_another_program_is_refused(tmp_path: Path, ports: Ports) -> None:
    with pytest.raises(RefusedError, match=r"instead of .*: run the same"):
        ready(tmp_path, small_graph(), ports)


def test_codes_of_more_bits_than_there_are_and_graphs_too_large_are_refused(
    tmp_path: Path,
) -> None:
    graph = ready(tmp_path, small_graph())
    with pytest.raises(RefusedError, match="to 9 bits"):
        Program(ProgramKey(2, Coding("levels", 9)), graph, graph, light_job())
    with pytest.raises(RefusedError, match="above the limit"):
        check_size(2**26 + 1)


@pytest.mark.parametrize(
    ("output", "dims"),
    [("activations", [-1, 1, 3]), ("activations", [2, -1, 1]), ("scores", [1, -1])],
)
def test_blocks_that_give_another_shape_are_named_in_a_sentence(
    tmp_path: Path, output: str, dims: list[int]
) -> None:
    """Also where passes would not fit each other."""
    key = ProgramKey(0, Coding("floats"), scored=True)

    def shaped(model: onnx.ModelProto) -> None:
        graph = Graph(model)
        del model.graph.output[:]
        for name, due in (("activations", [-1, 3, 1]), ("scores", [-1, 3])):
            shape = graph.constant(dims if name == output else due, np.int64)
            value = graph.add("Reshape", "images", shape)
            graph.give_output(name, value, FLOAT, [f"{name}{i}" for i in range(len(due))])

    blocks = ready(tmp_path, small_graph(shaped), key.blocks_ports(False))
    program = Program(key, blocks, blocks, light_job(prefix=0, candidates=3, width=1))
    images = np.zeros((PASS_TOKENS, 3), np.float32)
    with pytest.raises(RunError, match=f"program: .*{output}.* instead of"):
        program.run({"images": images})


def test_an_operator_that_the_provider_lacks_is_named_in_a_sentence(tmp_path: Path) -> None:
    def unknown(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("NoSuchOperator", ["images"], ["y"]))

    with pytest.raises(ModelError, match=r"cpu cannot run it \(.*NoSuchOp.*\): take another"):
        ready(tmp_path, small_graph(unknown))


def test_a_provider_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(RunError, match="has no qnn: take cpu"):
        check_provider("qnn")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"images": None}, "neither images nor texts"),
        ({"images": Images(28, 20, True, "bilinear", 1)}, "cuts images of 28 pixels out of 20"),
    ],
)
def test_what_a_server_says_of_a_job_is_checked(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RefusedError, match=sentence):
        light_job(**fields).check()


@pytest.mark.parametrize(
    ("method", "changes", "sentence"),
    [
        ("sflora", (), "sends gradients to devices"),
        ("fedlora", (), "trains the whole model"),
        ("st-sflora", ("training.image_augmentation=[flip]",), "needs torch to change images"),
        (
            "auto",
            ("method.uplink.levels=uniform", "method.uplink.rounding=stochastic"),
            "needs torch to draw random numbers",
        ),
        ("st-sflora", ("model.tail=0",), "train them, which needs torch"),
        ("st-sflora", ("model.frozen_bits=8",), "are multiplied by torch"),
        ("st-sflora", ("privacy.activation_noise=0.1",), "need torch to draw this noise"),
        ("st-sflora", ("privacy.label_noise=0.1",), "need torch to draw this noise"),
        ("lean", ("method.uplink.spatial=true",), "do not transform between patches"),
        ("lean", ("method.uplink.known_tokens=true",), "have means of positions, not of tokens"),
    ],
)
def test_jobs_that_need_torch_are_refused_with_the_reason(
    method: str, changes: tuple[str, ...], sentence: str
) -> None:
    job = small_job(*changes, method=method)
    reason = why_not(job, describe(job.model))
    assert reason is not None
    assert sentence in reason


@pytest.mark.parametrize("size", [(20, 33), Fit(24, 28, keep_aspect=True, kernel="bicubic")])
@pytest.mark.parametrize("grey", [False, True])
def test_images_are_held_as_devices_with_torch_hold_them(
    tmp_path: Path, size: tuple[int, int] | Fit, grey: bool
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    items: list[images.Item] = [("a", lambda: tmp_path / "a.png")]
    expected = images.stack(items, size, grey).numpy()
    found = images.stack_arrays(items, size, grey, {})
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_a_language_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    job = small_job(f"model.path={write(tmp_path, 'gpt2')}", method="st-sflora")
    reason = why_not(job, describe(job.model))
    assert reason is not None
    assert "language model" in reason


HEAVY = (
    "torch", "transformers", "pydantic", "yaml", "safetensors", "huggingface_hub", "onnx",
    "matplotlib", "pyarrow", "tokenizers",
)  # fmt: skip
BLOCKED = f"""
import sys
from importlib import import_module

class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocker())
for name in sys.argv[1:]:
    import_module(name)
"""


def test_light_code_imports_nothing_heavy() -> None:
    names = ("cli", "network.device.join", "network.device.light_participant", "light.measure")
    modules = [f"cutlayer.{name}" for name in names]
    subprocess.run([sys.executable, "-c", BLOCKED, *modules], check=True, timeout=120)


def exported(job: Job, folder: Path, image: Path, **options: Any) -> list[str]:
    """What the example of an exported device prints, run without anything heavy."""
    export_device(job, out=folder, **options)
    code = f"{BLOCKED}\nsys.argv = sys.argv[:1] + [{str(image)!r}]\nexec(open('run.py').read())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True
    )
    return found.stdout.splitlines()


def test_blocks_a_few_samples_at_a_time_give_what_one_pass_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of as many samples as passes do not divide, and of one."""
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    job = small_job("model.cut=1", method="auto")
    spec = describe(job.model)
    write_part(tmp_path / "part", job.model, job.seed, "device")
    made = programs_of(job, spec, tmp_path / "part", 1, tmp_path / "made", "float32")
    key = ProgramKey(1, Coding("levels", 4), selects=True, merges=True)
    graphs = [
        ReadyGraph(path, made.weights, ports, Compute(threads=1))
        for path, ports in (
            (made.blocks(key), key.blocks_ports(False)),
            (made.ending(key), key.ending_ports(False, spec.prefix)),
        )
    ]
    sizes = {"prefix": spec.prefix, "candidates": spec.patches, "width": spec.width}
    program = Program(key, *graphs, light_job(**sizes))
    session = onnxruntime.InferenceSession(str(made.whole(key)))
    samples = PASS_TOKENS // (spec.prefix + spec.patches) * 2 + 1
    levels = np.random.default_rng(0).integers(0, 256, (samples, 1, 28, 28))
    for count in (samples, 1):
        images = levels[:count].astype(np.float32)
        given = {"images": images, "keep": np.array([10], np.int64)}
        found = program.run(given)
        whole = session.run(None, given)
        expected = dict(zip(key.outputs(False, spec.prefix), whole, strict=True))
        assert found.keys() == expected.keys()
        assert np.array_equal(found["kept"], expected["kept"])
        for name in ("scale", "low", "high"):
            assert np.allclose(found[name], expected[name], rtol=1e-3)
        assert (found["codes"] != expected["codes"]).mean() < 1e-3


def test_int8_weights_do_not_overflow_cores_that_add_two_products_in_16_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs take 8 bits without a sign; what two products come to has to fit."""
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    job = small_job("model.cut=1", method="auto")
    write_part(tmp_path / "part", job.model, job.seed, "device")
    spec = describe(job.model)
    made = programs_of(job, spec, tmp_path / "part", 1, tmp_path / "made", "int8")
    model = onnx.load(made.whole(ProgramKey(1, Coding("levels", 4), selects=True, merges=True)))
    largest = [
        int(np.abs(onnx.numpy_helper.to_array(one).astype(int)).max())
        for one in model.graph.initializer
        if one.data_type == TensorProto.INT8 and len(one.dims) == 2
    ]
    assert largest
    assert all(2 * 255 * one < 2**15 for one in largest)


def test_an_exported_device_runs_by_its_twenty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "a.png"
    Image.new("L", (40, 30), 99).save(image)
    job = small_job("method.tokens.keep=10", "model.cut=1", method="auto")
    said = exported(job, tmp_path / "device", image)
    assert said == [
        "energy float32 (1,)",
        "kept int64 (1, 10)",
        "codes uint8 (12, 128)",
        "scale float32 (1,)",
        "rms float16 (12,)",
    ]
    said = exported(job, tmp_path / "int8", image, precision="int8", cut=1)
    assert said[0] == "energy float32 (1,)"
    with pytest.raises(RunError, match="holds something already"):
        export_device(job, out=tmp_path / "device")
    with pytest.raises(JobError, match="--cut: 99"):
        export_device(job, out=tmp_path / "other", cut=99)
    with pytest.raises(CutlayerError, match="klt needs a basis"):
        export_device(small_job(method="lean"), out=tmp_path / "lean")


def test_weights_are_fetched_again_only_where_their_name_comes_with_another_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[list[str]] = []

    async def fetch(_: object, files: list[PartFile], on_piece: object, folder: Path) -> Path:
        fetched.append([file.sha256 for file in files if file.name == "int8.bin"])
        return folder

    async def compute(make: object, path: Path, weights: Path, ports: Ports, how: object) -> Any:
        return SimpleNamespace(ports=ports)

    monkeypatch.setattr(light_participant, "fetch_files", fetch)
    key = ProgramKey(1, Coding("floats"))
    graphs = PartFile("0.onnx", 7, "01"), PartFile("1.onnx", 7, "02")
    sample = DeviceProgram(*graphs, key)
    job = light_job()
    task = LightTask(0, job, "ab", ["cat"], "weights.bin", [], sample)
    device: Any = SimpleNamespace(job=job)
    light = LightParticipant(device, task, tmp_path, Compute())
    site: Any = SimpleNamespace(connection=None, on_piece=None, compute=compute)
    for digest in ("aa", "aa", "bb", "aa"):
        weights = PartFile("int8.bin", 9, digest)
        asyncio.run(light.fetch(site, [DeviceProgram(*graphs, key, weights)]))
    assert fetched == [["aa"], [], ["bb"], ["aa"]]
