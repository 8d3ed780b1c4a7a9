"""Waits for the devices of a round before it begins, and says which are missing or gone."""

import math
import time
from collections.abc import Collection, Mapping, Sequence

from cutlayer.errors import CutlayerError, RefusedError
from cutlayer.network.server.connected_device import ConnectedDevice
from cutlayer.network.server.connected_devices import ConnectedDevices
from cutlayer.network.server.light_offers import LightOffers
from cutlayer.network.server.timeouts import Timeouts
from cutlayer.rounds.progress import Progress
from cutlayer.settings.devices import Devices

# A sentence names at most this many missing devices.
_NAMED = 8


class Arrivals:
    """Waits for devices before every round.

    devices: how many the job has and draws. progress: takes sentences on which devices are missing
    and which left. light: makes the programs of light devices; None: light devices are refused.
    """

    def __init__(
        self,
        devices: Devices,
        connected_devices: ConnectedDevices,
        timeouts: Timeouts,
        progress: Progress,
        light: LightOffers | None,
    ) -> None:
        self._devices, self._connected_devices = devices, connected_devices
        self._timeouts, self._progress, self._light = timeouts, progress, light
        self._begun = False
        self._given_up: set[int] = set()

    def wait(self, drawn: Sequence[int], told: Collection[int]) -> dict[int, ConnectedDevice]:
        """The devices that are there, once they are enough to begin a round.

        drawn: the devices of the round; it waits without limit until one of them is there. told:
        see `tell_departures`.
        """
        present = self._enough(drawn, told)
        self._begun = True
        return present

    def tell_departures(self, told: Collection[int]) -> None:
        """Say which devices are gone and why, except for `told`, which are reported elsewhere."""
        for gone in self._connected_devices.presence.departures():
            if gone.number not in told:
                self._progress.say(f"device {gone.number} ({gone.name}) is gone: {gone.reason}")

    def _enough(self, drawn: Sequence[int], told: Collection[int]) -> dict[int, ConnectedDevice]:
        presence = self._connected_devices.presence
        needed = self._timeouts.devices or self._devices.cohort
        patience_s = self._timeouts.return_s if self._begun else self._timeouts.begin_s
        # The wait for further devices begins once the first device is there.
        until = time.monotonic() + patience_s if self._begun else math.inf
        said: set[int] | None = None
        while True:
            self._make_light()
            present = presence.ready()
            self.tell_departures(told)
            self._given_up -= present.keys()
            away = (self._given_up | presence.turned_away()) - present.keys()
            some = any(number in present for number in drawn)
            if some and len(present) + len(away) >= needed:
                return present
            if some and until == math.inf:
                until = time.monotonic() + patience_s
            if some and time.monotonic() > until:
                self._given_up = set(range(self._devices.count)) - present.keys()
                return present
            if present.keys() != said:
                said = set(present)
                self._progress.say(self._waiting(present, needed, until - time.monotonic()))
            presence.wait(0.5)

    def _make_light(self) -> None:
        """Make the programs for which light devices that have just joined wait."""
        for precision, wanted in self._connected_devices.handout.light_wanted().items():
            assert self._light is not None
            self._progress.say(f"making the programs of light devices, in {precision}")
            try:
                offer = self._light.offer(precision)
            except CutlayerError as error:
                self._progress.say(str(error))
                wanted.set_exception(RefusedError(str(error)))
                continue
            self._connected_devices.handout.add(precision, offer.files)
            wanted.set_result(offer)

    def _waiting(self, present: Mapping[int, ConnectedDevice], needed: int, left_s: float) -> str:
        """What the run waits for, as a sentence."""
        names = self._connected_devices.names()
        missing = [
            f"{number} ({names[number]})" if number in names else str(number)
            for number in range(self._devices.count)
            if number not in present
        ]
        shown = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        limit = f" for {left_s:.0f} s more" if math.isfinite(left_s) else ""
        return f"waiting for devices{limit}: {len(present)} of {needed} are there, missing: {shown}"
