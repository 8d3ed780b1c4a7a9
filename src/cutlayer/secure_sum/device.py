"""A device's side of a secure sum: it answers four questions, each once."""

import secrets

from cutlayer.errors import FrameError
from cutlayer.secure_sum import shamir
from cutlayer.secure_sum.fixed_point import Floats, Words, to_words
from cutlayer.secure_sum.masks import (
    KEY_BYTES,
    agreed_key,
    digest,
    public_of,
    seal,
    stream,
    unseal,
)
from cutlayer.secure_sum.messages import (
    Answer,
    Begin,
    Delivery,
    Keys,
    Masked,
    Request,
    Roster,
    Shares,
    Survivors,
    Unmask,
    encode,
    read_request,
)


class SumDevice:
    """One device in one sum.

    number, round: of the device and the round; the server must name the same. values [n]: the
    numbers it adds to the sum. Its secrets are new for each sum: a key pair for seals, one for
    masks with each other device, and the seed of its own mask. That mask keeps its numbers hidden
    if they arrive after the server has taken the device for lost.
    """

    def __init__(self, number: int, round: int, values: Floats) -> None:
        self._number, self._round, self._values = number, round, values
        self._channel, self._mask, self._seed = (secrets.token_bytes(KEY_BYTES) for _ in range(3))
        self._begin: Begin | None = None
        self._keys: dict[int, Keys] = {}
        self._own: bytes = b""
        self._shares: dict[int, bytes] = {}
        self._due: type[Request] | None = Begin

    @property
    def done(self) -> bool:
        """Whether all questions were answered."""
        return self._due is None

    def answer(self, frame: bytes) -> bytes:
        """The answer to a question.

        Raises FrameError for a question out of order or one whose answer would reveal the device's
        numbers; RunError for numbers that are too large.
        """
        request = read_request(frame)
        if type(request) is not self._due:
            due = "nothing" if self._due is None else self._due.__name__
            raise FrameError(
                f"secure sum: the server asked {type(request).__name__} instead of {due}: run the "
                "same cutlayer on both sides"
            )
        match request:
            case Begin():
                answer: Answer = self._advertise(request)
            case Roster():
                answer = self._share(request)
            case Delivery():
                answer = self._add(request)
            case Survivors():
                answer = self._unmask(request)
        order = (Begin, Roster, Delivery, Survivors, None)
        self._due = order[order.index(type(request)) + 1]
        return encode(answer)

    def _advertise(self, asked: Begin) -> Keys:
        # With a threshold of half or less, a server could let some devices restore one secret of a
        # device and others its other secret, and so read its numbers.
        if asked.threshold > asked.devices or 2 * asked.threshold <= asked.devices:
            raise _unsafe(f"{asked.threshold} of {asked.devices} devices can restore a secret")
        if (asked.round, asked.values) != (self._round, len(self._values)):
            raise FrameError(
                f"secure sum: the server asked for {asked.values} numbers of round {asked.round}, "
                f"but this device has {len(self._values)} of round {self._round}: run the same "
                "cutlayer on both sides"
            )
        if asked.weight > asked.most:
            raise _unsafe(f"this device's weight is {asked.weight} of at most {asked.most}")
        self._begin = asked
        return Keys(public_of(self._channel), public_of(self._mask), digest(self._seed))

    def _share(self, asked: Roster) -> Shares:
        begin = self._sum
        self._keys = asked.keys
        mine = Keys(public_of(self._channel), public_of(self._mask), digest(self._seed))
        if asked.keys.get(self._number) != mine:
            raise _unsafe("this device's own keys are missing")
        if not begin.threshold <= len(asked.keys) <= begin.devices:
            raise _unsafe(f"the server has keys of {len(asked.keys)} of {begin.devices} devices")
        if len({one.mask for one in asked.keys.values()}) < len(asked.keys):
            raise _unsafe("two devices have the same key")
        points = [number + 1 for number in asked.keys]
        masks = shamir.share(self._mask, points, begin.threshold)
        seeds = shamir.share(self._seed, points, begin.threshold)
        pairs = {number: masks[number + 1] + seeds[number + 1] for number in asked.keys}
        self._own = pairs.pop(self._number)
        return Shares({n: seal(self._seal_key(n, sent=True), one) for n, one in pairs.items()})

    def _add(self, asked: Delivery) -> Masked:
        begin, others = self._sum, self._keys.keys() - {self._number}
        if not asked.sealed.keys() <= others or len(asked.sealed) + 1 < begin.threshold:
            raise _unsafe(f"only {len(asked.sealed) + 1} devices shared their secrets")
        self._shares = {
            n: unseal(self._seal_key(n, sent=False), one) for n, one in asked.sealed.items()
        }
        if any(len(one) != 2 * shamir.SHARE_BYTES for one in self._shares.values()):
            raise _unsafe("a share has a wrong length")
        self._shares[self._number] = self._own
        total = to_words(self._values * (begin.weight / begin.most), begin.devices)
        total = total + stream(self._seed, len(total))
        for number in self._shares.keys() - {self._number}:
            mask = pair_mask(begin.session, self._mask, self._number, number,
                             self._keys[number].mask, len(total))  # fmt: skip
            total += mask
        return Masked(total.astype("<u4").tobytes())

    def _unmask(self, asked: Survivors) -> Unmask:
        alive = set(asked.devices)
        if not alive <= self._shares.keys() or len(alive) < self._sum.threshold:
            raise _unsafe(f"only {len(alive)} devices sent their numbers")
        size = shamir.SHARE_BYTES
        return Unmask(
            {n: one[size:] for n, one in self._shares.items() if n in alive},
            {n: one[:size] for n, one in self._shares.items() if n not in alive},
        )

    @property
    def _sum(self) -> Begin:
        assert self._begin is not None
        return self._begin

    def _seal_key(self, other: int, sent: bool) -> bytes:
        """The key that seals shares sent to another device (`sent`) or received from it."""
        way = (self._number, other) if sent else (other, self._number)
        public = self._keys[other].channel
        return agreed_key(self._channel, public, "shares", self._sum.session.hex(), *way)


def pair_mask(
    session: bytes, private: bytes, number: int, other: int, public: bytes, count: int
) -> Words:
    """The mask that device `number` adds for a pair of devices; the other device adds its negative,
    so that the two masks cancel.
    """
    first, second = sorted((number, other))
    key = agreed_key(private, public, "mask", session.hex(), first, second)
    mask = stream(key, count)
    return mask if number == first else -mask


def _unsafe(what: str) -> FrameError:
    return FrameError(
        f"secure sum: {what}, so this device's numbers would not be hidden: it takes no part"
    )
