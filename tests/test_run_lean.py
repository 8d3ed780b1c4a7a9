"""Method lean over a network: each sample crosses once, with the simulator's end and bytes."""

from pathlib import Path

import pytest

from cutlayer import simulate
from cutlayer.errors import RunError
from cutlayer.rounds.progress import Silent
from cutlayer.train.result import RoundResult
from fleet_helpers import crowd, served
from helpers import equal, small_job


class Killed(Silent):
    """Ends the server in the middle of a round; keeps what is said."""

    def __init__(self, round: int | None) -> None:
        self.round = round
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def step_done(self, result: RoundResult, done: int, steps: int) -> None:
        if result.round == self.round and done == 1:
            raise RunError("killed")


def test_lean_over_a_network_is_the_simulators_even_where_the_server_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    job = small_job("data.train_samples=120", "training.rounds=3", method="lean")
    alone = simulate(job, out=tmp_path / "alone")
    net, ports, resumed = tmp_path / "net", [], Killed(None)
    with crowd() as devices:

        def bring(port: int) -> None:
            ports.append(port)
            for number in range(4):
                devices.join(port, number)

        with pytest.raises(RunError, match="killed"):
            served(job, net, bring, progress=Killed(2))
        # The devices are still there, with their basis, and come back to the same port.
        together = served(job, net, lambda port: None, progress=resumed, again=True, port=ports[0])
    assert devices.errors == {}
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]
    assert [row.computed for row in alone.rows] == [row.computed for row in together.rows]
    first, *_, last = together.rows
    assert last.up_bytes < first.up_bytes / 100
    assert any("has kept 120 samples" in line for line in resumed.said)
