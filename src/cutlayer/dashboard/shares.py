"""How much one client may ask at a time, and how fast it may guess a token."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict

MOST_REQUESTS = 16
"""How many requests of a client are answered at a time, including streams of events."""

# This many wrong tokens in a row cause no wait; each further one doubles the wait.
_FREE_GUESSES = 5
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 300.0
_MOST_CLIENTS = 4096


class Shares:
    """The open requests of each client (by address), and its wrong guesses so far."""

    def __init__(self) -> None:
        self._busy: Counter[str] = Counter()
        # By client: the number of wrong guesses, and the time when it may guess again.
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def begin(self, client: str) -> bool:
        """Whether one more request of the client may be answered; call `end` after it."""
        if self._busy[client] >= MOST_REQUESTS:
            return False
        self._busy[client] += 1
        return True

    def end(self, client: str) -> None:
        """A request of the client is answered."""
        self._busy[client] -= 1
        if not self._busy[client]:
            del self._busy[client]

    def wait_s(self, client: str) -> float:
        """Seconds until the client's next token is checked."""
        _, until = self._wrong.get(client, (0, 0.0))
        return max(0.0, until - time.monotonic())

    def wrong(self, client: str) -> None:
        """The client gave a wrong token."""
        guesses = self._wrong.pop(client, (0, 0.0))[0] + 1
        doubled = min(guesses - _FREE_GUESSES, 20)
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0**doubled) if doubled > 0 else 0.0
        self._wrong[client] = (guesses, time.monotonic() + wait_s)
        while len(self._wrong) > _MOST_CLIENTS:
            self._wrong.popitem(last=False)

    def right(self, client: str) -> None:
        """The client gave the right token."""
        self._wrong.pop(client, None)
