"""Seconds and joules of a device follow the papers' formulas and their switches."""

import numpy as np
import pytest

from cutlayer.settings.places import FleetSettings
from cutlayer.settings.world import EnergySettings
from cutlayer.world.energy import compute_j, compute_s, cycles, round_j, transmit_j
from cutlayer.world.fleet import make_fleet

FLEET = make_fleet(FleetSettings(preset=("raspberry-pi-4", "jetson-nano")), 2, seed=0)


def test_computing_takes_flops_over_clock_cores_and_flops_a_cycle():
    # 57.6 GFLOP at 1.8 GHz * 4 * 8 = 57.6 GFLOP/s
    assert compute_s(57.6e9, FLEET)[0] == pytest.approx(1.0)
    assert cycles(57.6e9, FLEET)[0] == pytest.approx(1.8e9)


def test_computing_for_a_second_takes_the_power_under_load():
    assert compute_j(FLEET.flops, FLEET) == pytest.approx([7.2, 10.0])


def test_sending_takes_power_times_time():
    assert transmit_j([0.2, 0.1], [3.0, 10.0]) == pytest.approx([0.6, 1.0])


def test_each_part_of_the_energy_can_be_switched_on_and_off():
    def total(**switches):
        energy = EnergySettings(**{"transmit": False, **switches})
        return round_j(FLEET, energy, 0.2, [1.0, 2.0], 1e9, 3e9)

    parts = [total(transmit=True), total(forward=True), total(backward=True)]
    assert np.array_equal(parts[0], [0.2, 0.4])
    assert parts[2] == pytest.approx(3 * parts[1])
    assert total(transmit=True, forward=True, backward=True) == pytest.approx(sum(parts))
    assert not total().any()


def test_the_default_counts_what_st_sflora_counts():
    energy = EnergySettings()
    assert (energy.transmit, energy.forward, energy.backward) == (True, False, False)
