"""Receives devices: checks what they say of themselves, and handles their messages."""

import asyncio

from cutlayer.errors import NetworkError, RefusedError
from cutlayer.network.server.connected_device import ConnectedDevice
from cutlayer.network.server.handout import Handout, JobOffer
from cutlayer.network.server.presence import Presence
from cutlayer.network.server.roster import Roster
from cutlayer.network.transport.event_log import EventLog
from cutlayer.network.transport.link_rates import measure_link
from cutlayer.network.transport.messages import Fetch, Hello, Message, Probed, Ready, StepDone

_MEASURE_S = 60.0


def check_hello(offer: JobOffer, name: str, hello: Hello) -> None:
    """Raise RefusedError for a device that the job cannot have.

    A device that is ready for another job, or has another version of the same protocol, is told
    this job as any other is, and gets ready for it.
    """
    if hello.light is not None and offer.no_light is not None:
        raise RefusedError(f"{offer.no_light} (device {name} runs without it)")


class Reception:
    """Handles the messages of devices, once they have got their task."""

    def __init__(
        self,
        offer: JobOffer,
        roster: Roster,
        presence: Presence,
        handout: Handout,
        log: EventLog,
    ) -> None:
        self._offer, self._roster, self._log = offer, roster, log
        self._presence, self._handout = presence, handout

    async def hear(self, device: ConnectedDevice, message: Message) -> None:
        """Handle a message of a device. Raises NetworkError for one that was not expected."""
        try:
            match message:
                case Fetch() if device.ready is None or device.light is not None:
                    await self._handout.send_file(device, message)
                case Ready(job=self._offer.task.digest) if device.ready is None:
                    await self._welcome(device, message)
                case StepDone():
                    device.losses.put_nowait(message)
                case Probed():
                    device.probes.put_nowait(message)
                case _:
                    raise NetworkError(f"message: {type(message).__name__} was not expected")
        except asyncio.QueueFull:
            raise NetworkError(f"message: {type(message).__name__} came unasked") from None

    async def _welcome(self, device: ConnectedDevice, ready: Ready) -> None:
        """Count a device as ready: check its message, measure its link, write down its number."""
        self._offer.check(device.number, ready)
        device.ready, device.basis = ready, ready.basis
        try:
            async with asyncio.timeout(_MEASURE_S):
                device.rates = await measure_link(device.connection)
        except TimeoutError:
            raise NetworkError(
                f"link: device {device.number} did not answer pings in {_MEASURE_S:g} s"
            ) from None
        try:
            self._roster.take(device.connection.name)
        except OSError as error:
            raise NetworkError(
                f"server: it cannot write down who joins ({error.strerror}): come again later"
            ) from None
        self._presence.enter(device)
        hello = device.hello
        self._log.write(
            "ready",
            device=device.connection.name,
            number=device.number,
            samples=ready.samples,
            processor=hello.processor,
            memory_bytes=hello.memory_bytes,
            flops_per_s=hello.flops_per_s,
            uplink_bps=device.rates.received_bps,
            downlink_bps=device.rates.sent_bps,
        )
