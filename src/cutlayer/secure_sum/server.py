"""The server's side of a secure sum: it passes sealed shares on, and learns only the sum."""

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice

import numpy as np

from cutlayer.errors import FrameError
from cutlayer.secure_sum import shamir
from cutlayer.secure_sum.device import pair_mask
from cutlayer.secure_sum.fixed_point import Floats, Words, to_values
from cutlayer.secure_sum.masks import digest, public_of, stream
from cutlayer.secure_sum.messages import (
    Begin,
    Delivery,
    Keys,
    Kind,
    Masked,
    Roster,
    Shares,
    Survivors,
    Unmask,
    encode,
    read_answer,
)

LEAST_DEVICES = 3
"""The fewest devices of a sum: with two, each would learn the other's numbers from the sum."""

_MOST_TRIES = 100
"""Sets of devices by whose shares secrets are restored, at most, where some shares are false."""

Frames = dict[int, bytes]


def threshold_of(devices: int, quorum: float) -> int:
    """How many devices must be left at the end: the share `quorum`, and always more than half."""
    return max(devices // 2 + 1, math.ceil(quorum * devices - 1e-9))


class SumServer:
    """One sum over devices with integer weights.

    Call `begin`, `roster`, `delivery`, `ask_survivors` and `total` in turn. Each takes the answers
    to the frames before, and all but `total` return the next frames for devices. A device without
    an answer is lost; `faults` has the errors of devices whose answers were not sound. Each raises
    FrameError if too few devices are left. session: a number that no other sum has.
    """

    def __init__(self, round: int, weights: Mapping[int, int], values: int, quorum: float) -> None:
        self.faults: dict[int, FrameError] = {}
        self.weights = dict(weights)
        self.threshold = threshold_of(len(weights), quorum)
        self._round, self._values = round, values
        self.session = secrets.token_bytes(16)
        self._keys: dict[int, Keys] = {}
        self._sharing: list[int] = []
        self._masked: dict[int, Words] = {}

    @property
    def survivors(self) -> list[int]:
        """The devices whose numbers are in the sum."""
        return list(self._masked)

    def begin(self) -> Frames:
        """The first question, to all devices."""
        if len(self.weights) < LEAST_DEVICES:
            raise FrameError(
                f"secure sum: round {self._round + 1} has {len(self.weights)} devices, but only a "
                f"sum of {LEAST_DEVICES} or more hides their numbers: draw more devices a round"
            )
        most = max(self.weights.values())
        return {
            device: encode(
                Begin(
                    self.session,
                    self._round,
                    len(self.weights),
                    self.threshold,
                    self._values,
                    weight,
                    most,
                )
            )
            for device, weight in self.weights.items()
        }

    def roster(self, answers: Mapping[int, bytes]) -> Frames:
        """The second question, to those that sent their keys."""
        self._keys = self._sound(answers, Keys)
        frame = encode(Roster(self._keys))
        return dict.fromkeys(self._keys, frame)

    def delivery(self, answers: Mapping[int, bytes]) -> Frames:
        """The third question, to those that shared their secrets: the shares for each."""

        def wrong(device: int, shares: Shares) -> str:
            if shares.sealed.keys() == self._keys.keys() - {device}:
                return ""
            return (
                "shared its secrets with others than those of the round: run the same cutlayer on "
                "both sides"
            )

        found = self._sound(answers, Shares, wrong)
        self._sharing = list(found)
        return {
            device: encode(
                Delivery({n: one.sealed[device] for n, one in found.items() if n != device})
            )
            for device in found
        }

    def ask_survivors(self, answers: Mapping[int, bytes]) -> Frames:
        """The last question, to those whose masked numbers came."""

        def wrong(device: int, masked: Masked) -> str:
            if len(masked.words) == 4 * self._values:
                return ""
            return (
                f"sent {len(masked.words)} bytes for {self._values} numbers of 4 bytes: run the "
                "same job on both sides"
            )

        self._masked = {
            device: np.frombuffer(one.words, dtype="<u4").astype(np.uint32)
            for device, one in self._sound(answers, Masked, wrong).items()
        }
        frame = encode(Survivors(list(self._masked)))
        return dict.fromkeys(self._masked, frame)

    def total(self, answers: Mapping[int, bytes]) -> Words:
        """The exact sum of the survivors' numbers, as integers modulo 2^32."""
        lost = [device for device in self._sharing if device not in self._masked]

        def wrong(device: int, shares: Unmask) -> str:
            if shares.seeds.keys() == self._masked.keys() and shares.keys.keys() == set(lost):
                return ""
            return "sent other shares than those asked for: run the same cutlayer on both sides"

        found = self._sound(answers, Unmask, wrong)
        seeds, keys = self._secrets(found, lost)
        total: Words = np.zeros(self._values, np.uint32)
        for words in self._masked.values():
            total += words
        for seed in seeds.values():
            total -= stream(seed, self._values)
        for device, key in keys.items():
            for other in self._masked:
                # Adds the mask of the lost device, which cancels the survivor's mask of the pair.
                total += pair_mask(
                    self.session, key, device, other, self._keys[other].mask, self._values
                )
        return total

    def mean(self, total: Words) -> Floats:
        """The survivors' mean [n] by their weights."""
        most = max(self.weights.values())
        weight = sum(self.weights[device] / most for device in self._masked)
        return to_values(total, len(self.weights)) / weight

    def _secrets(
        self, found: Mapping[int, Unmask], lost: Sequence[int]
    ) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """The seeds of those in the sum and the mask keys of the lost, by the shares of as many
        devices as it takes.

        Where a share is false, those of others are tried in its place, and whose it was goes to
        `faults`. Raises FrameError if no shares that were tried give all secrets.
        """
        first, spare = list(found)[: self.threshold], list(found)[self.threshold :]
        sets = (
            [one for one in first if one not in out] + list(others)
            for size in range(len(spare) + 1)
            for out in combinations(first, size)
            for others in combinations(spare, size)
        )
        fault: FrameError | None = None
        for helpers in islice(sets, _MOST_TRIES):
            try:
                secrets = self._restored(found, helpers, lost)
            except FrameError as error:
                fault = fault or error
                continue
            for device in found.keys() - set(helpers) if fault else ():
                try:
                    self._restored(found, [*helpers[1:], device], lost)
                except FrameError:
                    self.faults[device] = FrameError(
                        f"secure sum: device {device} sent a false share: run the same cutlayer on "
                        "both sides"
                    )
            return secrets
        assert fault is not None
        raise fault

    def _restored(
        self, found: Mapping[int, Unmask], helpers: Sequence[int], lost: Sequence[int]
    ) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """All secrets by the shares of some devices. Raises FrameError for one that is wrong."""
        seeds, keys = {}, {}
        for device in self._masked:
            seeds[device] = self._restore({n: found[n].seeds[device] for n in helpers}, device)
            if digest(seeds[device]) != self._keys[device].seed:
                raise self._false(device)
        for device in lost:
            keys[device] = self._restore({n: found[n].keys[device] for n in helpers}, device)
            if public_of(keys[device]) != self._keys[device].mask:
                raise self._false(device)
        return seeds, keys

    def _restore(self, shares: Mapping[int, bytes], device: int) -> bytes:
        try:
            return shamir.restore({number + 1: one for number, one in shares.items()})
        except ValueError:
            raise self._false(device) from None

    def _false(self, device: int) -> FrameError:
        return FrameError(
            f"secure sum: the shares of device {device} do not give its secret: a device of round "
            f"{self._round + 1} sent a false share, and the round is lost"
        )

    def _sound(
        self,
        answers: Mapping[int, bytes],
        kind: type[Kind],
        wrong: Callable[[int, Kind], str] = lambda device, found: "",
    ) -> dict[int, Kind]:
        """The sound answers of a kind; the errors of the others go to `faults`.

        wrong: returns what is wrong with a device's answer, as the end of a sentence, or "". Raises
        FrameError if too few devices are left.
        """
        left: dict[int, Kind] = {}
        for device, frame in answers.items():
            try:
                found = read_answer(frame, device, kind)
                if said := wrong(device, found):
                    raise FrameError(f"secure sum: device {device} {said}")
                left[device] = found
            except FrameError as fault:
                self.faults[device] = fault
        if len(left) < self.threshold:
            raise FrameError(
                f"secure sum: {len(left)} of {len(self.weights)} devices are left in round "
                f"{self._round + 1}, but {self.threshold} are needed (privacy.secure_quorum): the "
                "round is lost"
            )
        return left
