"""The docs' table of all waits of a network has the code's own numbers."""

import math
import re
from pathlib import Path

import pytest

pytest.importorskip("grpc")

from cutlayer.network.server import reception, remote_link, roster
from cutlayer.network.server.timeouts import Timeouts
from cutlayer.network.transport.backoff import Backoff
from cutlayer.network.transport.limits import Limits

PAGE = Path(__file__).resolve().parents[1] / "docs" / "deploy.md"


def test_the_table_of_waits_has_the_numbers_of_the_code() -> None:
    section = PAGE.read_text().split("## How long each waits")[1].split("\n## ")[0]
    told = re.findall(r"^\| [^|]+ \| (?:`--\w+`)? *\| (no end|[\d.]+) \|$", section, re.MULTILINE)
    waits, limits, again = Timeouts(), Limits(), Backoff()
    assert [math.inf if one == "no end" else float(one) for one in told] == [
        waits.begin_s,
        waits.answer_s,
        waits.round_s,
        waits.farewell_s,
        waits.return_s,
        remote_link._GRACE_S,
        roster._GETTING_READY_S,
        roster._HELD_S,
        reception._MEASURE_S,
        limits.hello_s,
        limits.stall_s,
        limits.heartbeat_s,
        limits.idle_s,
        again.first_s,
        again.longest_s,
    ]
