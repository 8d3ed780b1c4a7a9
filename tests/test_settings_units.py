"""Quantities in words: a job takes `50 MHz` and keeps 50e6."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer import load_job
from cutlayer.errors import JobError
from cutlayer.job import dump_job, make_job
from cutlayer.settings.units import UNITS, in_own_unit


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("world.bandwidth_hz=50 MHz", 50e6),
        ("world.carrier_hz=3.5GHz", 3.5e9),
        ("world.noise_dbm_per_hz=-174 dBm/Hz", -174.0),
        ("world.server_power_w=200 mW", 0.2),
        ("world.server_power_w=30 dBm", 1.0),
        ("world.latency_s=20 ms", 0.02),
        ("world.deadline_s=2 min", 120.0),
        ("world.coverage_m=1.5 km", 1500.0),
        ("world.server_flops=1e1 TFLOP/s", 1e13),
        ("world.energy.cap_j=5 mJ", 0.005),
        ("world.fleet.max_distance_m=0.4 km", 400.0),
        ("server.cache_bytes=2 GiB", 2**31),
        ("world.bandwidth_hz=20e6", 20e6),
    ],
)
def test_a_quantity_in_words_is_the_number_in_the_fields_unit(setting: str, value: float) -> None:
    job = load_job(None, ["world={}", setting])
    found: object = job
    for name in setting.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == pytest.approx(value, rel=1e-12)
    assert make_job(job.model_dump(mode="json")) == job
    assert "MHz" not in dump_job(job)


def test_each_value_of_a_list_may_have_a_unit() -> None:
    job = load_job(
        None, ["method=asfl", "method.allocation.rates_bps=[0, 10 Mbit/s, 20 Mbit/s, 40e6]"]
    )
    assert job.method.allocation.rates_bps == (0.0, 10e6, 20e6, 40e6)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("world.bandwidth_hz=50 MW", "world: bandwidth_hz is '50 MW': give a number of Hz"),
        ("world.shadowing_db=8 dBm", "world: shadowing_db is '8 dBm': give a number of dB"),
        ("world.latency_s=1.2.3 ms", "'1.2.3' is no number"),
        ("world.bandwidth_hz=-5 MHz", "world.bandwidth_hz: -5000000.0 will not do"),
        ("world.bandwidth_hz=fast", "world.bandwidth_hz: 'fast' will not do"),
        ("training.rounds=3 s", "training.rounds: '3 s' will not do"),
    ],
)
def test_a_wrong_unit_is_one_sentence(setting: str, said: str) -> None:
    with pytest.raises(JobError) as raised:
        load_job(None, ["world={}", setting])
    assert said in str(raised.value)


@given(st.sampled_from([(end, unit) for end in UNITS for unit in UNITS[end]]), st.floats(0.01, 999))
def test_every_unit_is_its_share_of_the_fields_own(which: tuple[str, str], number: float) -> None:
    end, unit = which
    found = in_own_unit(f"some{end}", f"{number!r} {unit}")
    scale = UNITS[end][unit]
    assert math.isclose(found, scale(number) if callable(scale) else scale * number)


@given(st.text(max_size=40))
def test_a_text_is_a_number_stays_as_it_is_or_is_refused_by_name(text: str) -> None:
    said = ""
    try:
        found = in_own_unit("bandwidth_hz", text)
        said = "bandwidth_hz" if found == text or isinstance(found, float) else repr(found)
    except ValueError as error:
        said = str(error)
    assert "bandwidth_hz" in said
