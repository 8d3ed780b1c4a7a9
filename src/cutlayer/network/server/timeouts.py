"""How long a run over a network waits for its devices, and when those of a round must be done."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cutlayer.errors import NetworkError

# Step s of S must be done after this share of the round's time, and s / S of the rest.
_FIRST_SHARE = 0.25


@dataclass(frozen=True)
class Timeouts:
    """How long a run waits for its devices, in seconds."""

    devices: int | None = None
    """How many devices a round waits for before it begins; None: as many as train in one round."""

    begin_s: float = math.inf
    """Seconds to wait before the first round, counted from the first device's arrival; then the run
    begins with the devices that are there.
    """

    answer_s: float = 120.0
    """Seconds that a device has for one answer; one that takes longer is lost for the round."""

    return_s: float = 30.0
    """Seconds to wait, before each later round, for lost devices to come back."""

    round_s: float = math.inf
    """Seconds for a whole round; a device that is not done by then, or is too far behind to be done
    by then, is lost for the round.
    """

    farewell_s: float = 60.0
    """Seconds to wait at the end for devices that are away, so that they learn of the end."""


class Deadline:
    """When a round that begins now must be done, and how far behind a device may be until then."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._until = time.monotonic() + timeouts.round_s

    def patience_s(self, grace_s: float = 0.0) -> float:
        """Seconds to wait for an answer: until the round's deadline.

        grace_s: the seconds to wait if the deadline has passed.
        """
        return min(self._timeouts.answer_s, max(grace_s, self._until - time.monotonic()))

    @asynccontextmanager
    async def of_step(self, step: int, steps: int) -> AsyncIterator[None]:
        """Raises NetworkError if a device is too far behind to be done by the round's deadline.

        The others wait for that device at every step, so none of them would be done in time.
        """
        round_s = self._timeouts.round_s
        if not math.isfinite(round_s):
            yield
            return
        share = _FIRST_SHARE + (1 - _FIRST_SHARE) * (step + 1) / steps
        left_s = self._until - round_s * (1 - share) - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                yield
        except TimeoutError:
            raise NetworkError(
                f"deadline: step {step + 1} of {steps} was not done after "
                f"{100 * share:.0f} % of the {round_s:g} s of the round"
            ) from None
