"""Every command and snippet of the README and of docs/ runs, or says beside it why it does not.

A block after `<!-- not run: reason -->` is only parsed. Commands run with less work: fewer rounds,
and fewer samples where the job takes the bundled data.
"""

import builtins
import re
import signal
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cutlayer import cli, methods
from cutlayer.job import Job, load_job
from cutlayer.settings.method import Method, Quantizer
from docs_pages import DOCS, PAGES, ROOT, SHELL, Block, blocks_of, furnish

SHOWN = {"", "text", "json", "xml", "csv", "toml", "ini", "mermaid", "latex"}
"""Languages that are not run; with a title they become files."""

ONLY_PARSED = {
    "demo": "takes minutes",
    "serve": "waits for devices",
    "join": "needs a server",
    "dashboard": "serves until it is stopped",
}
FEWER = {
    "simulate": ["--set", "training.rounds=1"],
    "compare": ["--set", "training.rounds=1"],
    "calibrate": ["--samples", "8", "--cuts", "2", "--tokens", "12,all", "--bits", "8"],
    "report": ["--images", "1"],
}
OF_THE_DEMO = {
    "data.train_samples": 80,
    "data.test_samples": 20,
    "data.partition.min_samples": 2,
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run a page's blocks in; modules imported from it are forgotten afterwards."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_snippets_run(
    page: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(workspace, page)
    names: dict[str, Any] = {"__name__": "docs", "print": lambda *_: None}
    for block in blocks_of(page):
        try:
            _run(block, workspace, names, monkeypatch)
        except (Exception, SystemExit) as error:
            error.add_note(f"in the block at {page.relative_to(ROOT)}:{block.line}")
            raise


def _run(
    block: Block, workspace: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if block.title and block.why is None:
        path = workspace / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    if block.language == "python":
        code = builtins.compile(block.text, block.title or "snippet", "exec")
        if block.why is None:
            exec(code, names)
    elif block.language == "yaml":
        values = yaml.safe_load(block.text)
        if set(values) & set(Job.model_fields):
            path = workspace / (block.title or "job.yaml")
            path.write_text(block.text)
            load_job(path)
    elif block.language in SHELL:
        for words in block.commands():
            _command(words, block, monkeypatch)
    else:
        assert block.language in SHOWN, f"nothing is known of blocks of {block.language}"


def _command(words: list[str], block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    program = words[0].rpartition("/")[2]
    if program == "cutlayer":
        verb = _parsed(words[1:])
        if block.why is None and verb not in ONLY_PARSED:
            _cutlayer(verb, words[1:], monkeypatch)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"the Makefile has no target {words[1:]}"
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"cutlayer\[([\w,]+)\]", " ".join(words))
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        asked = {extra for listed in extras for extra in listed.split(",")}
        assert asked <= set(known["optional-dependencies"])
    elif program == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
    else:
        assert block.why, f"say why {words} is not run: <!-- not run: reason --> before the block"


def _parsed(words: list[str]) -> str:
    """The verb of a command line; raises for an option or a command that there is not."""
    command: Any = typer.main.get_command(cli.app)
    context = command.make_context("cutlayer", list(words))
    verb, command, rest = command.resolve_command(
        context, [*context._protected_args, *context.args]
    )
    while hasattr(command, "resolve_command"):
        context = command.make_context(verb, rest, parent=context)
        _, command, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
    command.make_context(verb, rest, parent=context)
    assert verb is not None
    return verb


def _cutlayer(verb: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    more = [] if "--resume" in words else FEWER.get(verb, [])
    if "method.uplink.spatial=true" in words and "--tokens" in more:  # which sends all of them
        place = more.index("--tokens")
        more = [*more[:place], *more[place + 2 :]]
    if verb in ("simulate", "compare", "calibrate") and "--resume" not in words:
        file = next((word for word in words if word.endswith((".yaml", ".yml"))), None)
        if load_job(file).data.source == "demo":
            for setting, value in OF_THE_DEMO.items():
                more = [*more, "--set", f"{setting}={value}"]
    monkeypatch.setattr(sys, "argv", ["cutlayer", *words, *more])
    before = signal.getsignal(signal.SIGTERM)
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code:
            pytest.fail(f"{' '.join(words)} ended with status {stop.code}")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "page", sorted((DOCS / "methods").glob("*.md")), ids=lambda page: page.name
)
def test_settings_of_methods_are_those_of_the_code(page: Path) -> None:
    if page.stem == "index":
        return
    method = methods.find_method(page.stem)
    shown = {
        setting: yaml.safe_load(value)
        for setting, value in re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", page.read_text(), re.M)
    }
    values = _flat(method)
    for setting, value in shown.items():
        assert setting in values, f"there is no setting method.{setting}"
        assert _alike(value, values[setting]), f"method.{setting} is {values[setting]}"
    plain = _flat(Method(name=page.stem, tail_downlink=Quantizer(), tail_uplink=Quantizer()))
    own = {setting for setting, value in values.items() if value != plain.get(setting, value)}
    assert own <= set(shown), f"the table leaves out {sorted(own - set(shown))}"


def _alike(shown: Any, value: Any) -> bool:
    """YAML 1.1 reads 10e6 as a text, and jobs take it for a number."""
    if isinstance(value, list | tuple):
        return len(shown) == len(value) and all(map(_alike, shown, value))
    return float(shown) == value if isinstance(value, float) else shown == value


def _flat(method: Method) -> dict[str, Any]:
    """All settings by dotted name, besides the name."""
    found = {}
    for name, value in method.model_dump(exclude={"name"}).items():
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{key}".rstrip("."): one for key, one in inner.items()}
    return found


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[\w/-]+\.md", text))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert there <= listed, f"mkdocs.yml does not list {sorted(there - listed)}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS.rglob("*.md")], ids=lambda p: p.name)
def test_links_within_the_checkout_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{target} leads nowhere"
