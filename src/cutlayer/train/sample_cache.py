"""What devices have sent, by sample, as the frames it came in: what need not be sent again.

A sample's activations stay valid as long as its device has the same cut, tokens and bits, and the
codec the same basis. Frames that need no basis, as those a basis was fitted to, outlive it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cutlayer.allocate.decision import Decision
from cutlayer.fingerprint import of_parts


@dataclass(frozen=True)
class SentSample:
    """One sample of a device. setting: what it was sent at; basis: the fingerprint of the basis
    that decodes it, None for none; rate_bits: bits a value that it was sent at with that basis.
    """

    device: int
    sample: int
    setting: int
    basis: int | None
    frame: bytes
    rate_bits: float = 0.0


class SampleCache:
    """The samples of all devices of a run, each device's apart.

    limit_bytes: of all frames together. Nothing is thrown out for something new: what finds no
    room is sent each time.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._held: dict[int, dict[int, SentSample]] = defaultdict(dict)
        self._room: dict[int, int] = {}
        self._new: list[SentSample] = []
        self._unsaved: set[int] = set()

    def __iter__(self) -> Iterator[SentSample]:
        """All of them, device by device."""
        for samples in self._held.values():
            yield from samples.values()

    def begin(
        self,
        devices: Mapping[int, Decision],
        basis: Mapping[int, int | None],
        rates: Mapping[int, float],
    ) -> None:
        """Start a round, or a turn of it: drop what these devices' settings make stale.

        basis: of each device's cut, the fingerprint of the basis in use; rates: the bits a value
        that each is to send, for which finer samples serve too. What room is left is theirs in
        equal parts.
        """
        for device, decision in devices.items():
            setting = setting_of(decision)
            for one in list(self._held[device].values()):
                stale = one.basis is not None and (
                    one.basis != basis[device] or one.rate_bits < rates[device]
                )
                if one.setting != setting or stale:
                    self._drop(one)
        self._room = dict.fromkeys(devices, (self.limit_bytes - self.used_bytes) // len(devices))

    def forget(self, device: int) -> None:
        """Drop all of a device's samples: its data may have changed."""
        for one in list(self._held[device].values()):
            self._drop(one)

    def room_bytes(self, device: int) -> int:
        """For more samples of a device in this round."""
        return self._room[device]

    def samples(self, device: int) -> frozenset[int]:
        """The numbers of a device's samples that are held."""
        return frozenset(self._held[device])

    def find(self, device: int, sample: int) -> bytes | None:
        """The frame in which a sample came, None where it is not held."""
        one = self._held[device].get(sample)
        return None if one is None else one.frame

    def keep(self, one: SentSample) -> None:
        """Keep a sample that came, if its device has room left for it and it is not there."""
        if one.sample in self._held[one.device] or len(one.frame) > self._room[one.device]:
            return
        self._room[one.device] -= len(one.frame)
        self.restore(one)
        self._new.append(one)

    def restore(self, one: SentSample) -> None:
        """Put back a sample that was saved; a later setting of its device takes the place of all
        that was there."""
        if any(held.setting != one.setting for held in self._held[one.device].values()):
            self.forget(one.device)
        self._held[one.device][one.sample] = one
        self.used_bytes += len(one.frame)

    def take_new(self) -> list[SentSample]:
        """What came since this was asked last, in order, is still held, and may be saved."""
        found = [one for one in self._new if self._held[one.device].get(one.sample) is one]
        self._new = []
        return [one for one in found if one.device not in self._unsaved]

    def saved(self) -> list[SentSample]:
        """All that may be saved."""
        return [one for one in self if one.device not in self._unsaved]

    def leave_unsaved(self, devices: Iterable[int]) -> None:
        """Save nothing of devices whose data nobody else knows: a later run could not tell it."""
        self._unsaved |= set(devices)

    def _drop(self, one: SentSample) -> None:
        del self._held[one.device][one.sample]
        self.used_bytes -= len(one.frame)


def setting_of(decision: Decision) -> int:
    """A number for what of a decision makes activations what they are, below 2^60."""
    return int(of_parts(decision.cut, decision.tokens, decision.bits_up)[:15], 16)
