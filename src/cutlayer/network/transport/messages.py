"""Control messages between a device and the server: typed, bounded, and checked when read.

A message is a msgpack map whose key "type" tells which. To add one: write the struct and name it
in `Message`. A field with a default can be added without a new PROTOCOL: at its default it is not
sent, so that a side of the version before can read the message (docs/upgrades.md).
"""

from typing import Annotated, get_args

import msgspec
from msgspec import Meta

from cutlayer.errors import NetworkError
from cutlayer.light.job import LightJob
from cutlayer.settings.precision import Precision
from cutlayer.wire.program_ports import ProgramKey

PROTOCOL = 4
OLDEST_PROTOCOL = 4
"""The oldest one that a server still serves."""

MAX_PING_BYTES = 2**20

Text = Annotated[str, Meta(max_length=512)]
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{1,128}$")]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Rate = Annotated[float, Meta(gt=0, le=1e21)]
Flops = Annotated[float, Meta(ge=1e3, le=1e18)]
Loss = Annotated[float, Meta(ge=0, le=1e6)]
Number = Annotated[int, Meta(ge=0, le=2**20)]
Cut = Annotated[int, Meta(ge=0, le=4096)]
Bits = Annotated[int, Meta(ge=1, le=32)]
ValueBits = Annotated[float, Meta(ge=0.01, le=8)]
Share = Annotated[float, Meta(ge=0, le=1e6)]
Fingerprint = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Way = Annotated[str, Meta(pattern="^(down|tail-down|tail-up)$")]
Histogram = Annotated[list[Annotated[float, Meta(ge=0, le=2.0**53)]], Meta(max_length=65536)]


class _Message(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    pass


class Hello(_Message, tag="hello", forbid_unknown_fields=False, omit_defaults=False):
    """The first message of a device: what it is and can do. None: not measured.

    Read whatever a later version adds to it, so that its protocol can be answered.

    job: the digest of the job it is ready for; None: any. device: its name, needed where no
    certificate gives it. number: the one it wants to be in the job. flops_per_s: what it measured
    of itself; how fast its link is, the server measures. light: it has no torch and runs programs,
    in these numbers.
    """

    version: Text
    job: Digest | None = None
    samples: Count = 0
    protocol: int = PROTOCOL
    device: Name | None = None
    number: Number | None = None
    processor: Text = ""
    cores: Annotated[int, Meta(ge=1, le=65536)] = 1
    memory_bytes: Count = 0
    flops_per_s: Flops | None = None
    light: Precision | None = None


class Welcome(_Message, tag="welcome"):
    """The server's answer to a device that it accepts; others are told why not and disconnected.

    session: a secret with which the device opens the other lanes of this connection.
    """

    session: Digest


class PartFile(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A file of the device's part of the model."""

    name: Name
    size: Count
    sha256: Digest


class Task(_Message, tag="task"):
    """What a device needs to know and to have before it can take part.

    number: of the device in the job. job: as YAML; digest: of the job. classes: the names of the
    classes. cut: the latest cut that is possible. files: of the model's part before that cut.
    """

    number: Number
    job: Annotated[str, Meta(max_length=2**16)]
    digest: Digest
    classes: Annotated[list[Text], Meta(max_length=65536)]
    cut: Cut
    files: Annotated[list[PartFile], Meta(max_length=32)]


class DeviceProgram(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A program that a light device runs in a round: its two graphs, and what they do.

    weights: the file of its large tensors (None: the task's), in a job that chooses the precision
    of each device.
    """

    blocks: PartFile
    ending: PartFile
    key: ProgramKey
    weights: PartFile | None = None

    @property
    def graphs(self) -> tuple[PartFile, PartFile]:
        """Both, in the order in which they are run."""
        return self.blocks, self.ending


Programs = Annotated[list[DeviceProgram], Meta(max_length=8)]


class LightTask(_Message, tag="light-task"):
    """A `Task` for a light device. job: the part of the job it needs to know. weights: the name of
    the file with the large tensors of all its programs. files: that file and, for texts, the
    tokenizer. sample: a program to measure the device with: the blocks before the job's cut only.
    """

    number: Number
    job: LightJob
    digest: Digest
    classes: Annotated[list[Text], Meta(max_length=65536)]
    weights: Name
    files: Annotated[list[PartFile], Meta(max_length=32)]
    sample: DeviceProgram


class Fetch(_Message, tag="fetch"):
    """Asks for a file of the part, or the graph of a program, from byte `offset` on.

    The file comes on the lane DOWN, in pieces.
    """

    file: Name
    offset: Count = 0


class Ready(_Message, tag="ready"):
    """The device can take part. job: the digest of the task it is ready for.

    own: whether it trains on data of its own, which the server does not know. labels: number of
    samples of each class, with noise if the job asks for it; None if the job's devices share none.
    basis: the fingerprint of the basis that it has. data: a random number that stands for its own
    data as long as the device runs; None: it has its part of the job's data.
    """

    job: Digest
    samples: Annotated[int, Meta(ge=1, le=2**31)]
    own: bool = False
    labels: Histogram | None = None
    basis: Fingerprint | None = None
    data: Fingerprint | None = None


class RoundBegin(_Message, tag="round-begin"):
    """The device takes part in a round with this cut, these tokens and bits, and this radio share.

    samples: of an epoch at most (None: all the device has). tokens: kept of a sample besides the
    prefix (None: all). bits: of one value up and down. rate_bits: up, where the uplink's codec is a
    fitted one (None: the job's).
    adapter, basis, held: frames with the adapter to start from, the basis its uplink needs, and the
    samples that it need not send, come on the lane down in this order. plain_steps: before the
    basis, where there is none yet. change_basis: one that changes are encoded with follows; ways:
    bases of what else crosses come last, in this order. change_steps, held_digest: see
    `train.opening`.
    programs: that a light device runs; it fetches those it lacks. precision: in which these
    compute, where the job chooses it for each device.
    """

    round: Count
    cut: Cut
    steps: Count
    adapter: bool = False
    samples: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    tokens: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    bits_up: Bits = 32
    bits_down: Bits = 32
    bandwidth_hz: Rate | None = None
    power_w: Rate | None = None
    rate_bits: ValueBits | None = None
    basis: bool = False
    held: bool = False
    plain_steps: Count = 0
    change_basis: bool = False
    change_steps: Count | None = None
    held_digest: Fingerprint | None = None
    ways: Annotated[list[Way], Meta(max_length=3)] = []
    programs: Programs = []
    precision: Precision = "float32"


class StepDone(_Message, tag="step-done"):
    """The device has finished one step. loss: of its batch, if the device computes it."""

    round: Count
    step: Count
    loss: Loss | None = None


class RoundEnd(_Message, tag="round-end"):
    """The round is over for the device. late: its training was not used."""

    round: Count
    late: bool = False


class Probe(_Message, tag="probe"):
    """Asks for statistics of the activations of a round's first batch. scored: rank tokens too.

    programs: the one that a light device runs to answer.
    """

    round: Count
    cut: Cut
    scored: bool = False
    programs: Programs = []


class Probed(_Message, tag="probed"):
    """The answer to a probe (see train.activation_summary.ActivationStatistics)."""

    round: Count
    cut: Cut
    spread: Annotated[float, Meta(ge=0, le=1e38)]
    mean_square: Annotated[float, Meta(ge=0, le=1e38)]
    importance: Annotated[list[Share], Meta(max_length=65537)] | None = None


class Done(_Message, tag="done"):
    """The job is finished: the device may leave."""


class Ping(_Message, tag="ping"):
    """Asks for `answer_bytes` bytes back; `payload` only makes the ping longer."""

    number: Count
    payload: Annotated[bytes, Meta(max_length=MAX_PING_BYTES)] = b""
    answer_bytes: Annotated[int, Meta(ge=0, le=MAX_PING_BYTES)] = 0


class Pong(_Message, tag="pong"):
    """The answer to the ping of the same number."""

    number: Count
    payload: Annotated[bytes, Meta(max_length=MAX_PING_BYTES)] = b""


class Bye(_Message, tag="bye"):
    """The last message of a device that leaves on purpose."""

    reason: Text = ""


Message = (
    Hello | Welcome | Task | LightTask | Fetch | Ready | Probe | Probed | RoundBegin | StepDone
    | RoundEnd | Done | Ping | Pong | Bye
)  # fmt: skip

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message as bytes."""
    return _ENCODER.encode(message)


def decode(frame: bytes) -> Message:
    """The message in `frame`. Raises NetworkError for anything else."""
    try:
        message: Message = _DECODER.decode(frame)
    # UnicodeDecodeError, RecursionError and the like mean a bad message, as a wrong type does.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NetworkError(
            f"message: it is not valid ({error}): upgrade the side with the older cutlayer"
        ) from None
    return message


KINDS: tuple[type[Message], ...] = get_args(Message)
