"""Fixtures shared by all tests."""

from pathlib import Path

import hypothesis
import pytest

from browsers import browser

__all__ = ["browser"]

# No timing in tests: a busy machine must not fail one.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"needs {name}/ beside the checkout in ../shared, which is not there")
    return path


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real pretrained models."""
    return _shared("models")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets."""
    return _shared("data")
