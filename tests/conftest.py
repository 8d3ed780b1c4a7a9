"""Fixtures shared by all tests."""

import functools
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from browsers import browser
from cutlayer import Job, Result, simulate
from cutlayer.drawing import style
from helpers import Simulated

__all__ = ["browser"]

# No timing in tests: a busy machine must not fail one.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

_RENDERED = style.rendered
SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"needs {name}/ beside the checkout in ../shared, which is not there")
    return path


def _cache(factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTLAYER_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the tests' jobs keep for later stands beside nobody's own, and reads none of it."""
    yield from _cache(tmp_path_factory)


@pytest.fixture(scope="module", autouse=True)
def cache_of_a_file(
    cache_of_the_tests: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What a file's tests keep for later no other file's see: plans hang on what was calibrated."""
    yield from _cache(tmp_path_factory)


@pytest.fixture(scope="session", autouse=True)
def figures_are_blank() -> Iterator[None]:
    """Figures are composed and their files written, but not rendered: that takes half a small run.

    Tests that look at figures ask for the fixture `figures`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "rendered", lambda figure, ending: b"not rendered")
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are rendered in this test."""
    monkeypatch.setattr(style, "rendered", _RENDERED)


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real pretrained models."""
    return _shared("models")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets."""
    return _shared("data")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """The simulated run of a job, made once for all tests that ask for it: its folder is read."""

    @functools.lru_cache
    def run(text: str) -> Result:
        return simulate(
            Job.model_validate_json(text), out=tmp_path_factory.mktemp("simulated") / "run"
        )

    return lambda job: run(job.model_dump_json())
