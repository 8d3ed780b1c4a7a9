"""Keeps the frames of samples that devices have sent, so that they need not send them again.

A sample's activations stay valid as long as its device has the same cut, tokens and bits, and the
codec has the same basis. Frames that need no basis, such as those a basis was fitted to, stay valid
under any basis.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cutlayer.allocate.decision import Decision
from cutlayer.fingerprint import of_parts


@dataclass(frozen=True)
class SentSample:
    """One sample of a device. setting: the number of the setting it was sent with (`setting_of`).
    basis: the fingerprint of the basis that decodes it, None if it needs none. rate_bits: bits a
    value with that basis.
    """

    device: int
    sample: int
    setting: int
    basis: int | None
    frame: bytes
    rate_bits: float = 0.0


class SampleCache:
    """The samples of all devices of a run, by device.

    limit_bytes: of all frames together. No sample is dropped to make room for a new one: a sample
    that does not fit is sent each time.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._held: dict[int, dict[int, SentSample]] = defaultdict(dict)
        self._room: dict[int, int] = {}
        self._new: list[SentSample] = []
        self._unsaved: set[int] = set()

    def __iter__(self) -> Iterator[SentSample]:
        """All samples, device by device."""
        for samples in self._held.values():
            yield from samples.values()

    def begin(
        self,
        devices: Mapping[int, Decision],
        basis: Mapping[int, int | None],
        rates: Mapping[int, float],
    ) -> None:
        """Start a round, or a turn of it: drop samples that do not fit these devices' settings.

        basis: by device, the fingerprint of the basis in use at its cut. rates: by device, the bits
        a value that it is to send; samples with more bits stay valid. The room that is left is
        divided equally among the devices.
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
        """Bytes of room for further samples of a device in this round."""
        return self._room[device]

    def samples(self, device: int) -> frozenset[int]:
        """The numbers of a device's samples that are held."""
        return frozenset(self._held[device])

    def find(self, device: int, sample: int) -> bytes | None:
        """The frame in which a sample came; None if it is not held."""
        one = self._held[device].get(sample)
        return None if one is None else one.frame

    def keep(self, one: SentSample) -> None:
        """Keep a sample that came, unless it is held already or its device has no room left."""
        if one.sample in self._held[one.device] or len(one.frame) > self._room[one.device]:
            return
        self._room[one.device] -= len(one.frame)
        self.restore(one)
        self._new.append(one)

    def restore(self, one: SentSample) -> None:
        """Put back a sample that was saved. If it has another setting than the device's samples
        here, it replaces all of them."""
        if any(held.setting != one.setting for held in self._held[one.device].values()):
            self.forget(one.device)
        self._held[one.device][one.sample] = one
        self.used_bytes += len(one.frame)

    def take_new(self) -> list[SentSample]:
        """Samples that came since the last call, in order, if still held and free to be saved."""
        found = [one for one in self._new if self._held[one.device].get(one.sample) is one]
        self._new = []
        return [one for one in found if one.device not in self._unsaved]

    def saved(self) -> list[SentSample]:
        """All samples that may be saved."""
        return [one for one in self if one.device not in self._unsaved]

    def leave_unsaved(self, devices: Iterable[int]) -> None:
        """Never save samples of devices with data of their own: it may differ in a later run."""
        self._unsaved |= set(devices)

    def _drop(self, one: SentSample) -> None:
        del self._held[one.device][one.sample]
        self.used_bytes -= len(one.frame)


def setting_of(decision: Decision) -> int:
    """A number below 2^60 for the part of a decision that activations depend on."""
    # float32 adds nothing, so that samples that were kept before there were others stay valid.
    other = () if decision.precision == "float32" else (decision.precision,)
    return int(of_parts(decision.cut, decision.tokens, decision.bits_up, *other)[:15], 16)
