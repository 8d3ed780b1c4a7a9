"""The processes that `torchrun` starts side by side: rank 0 asks, the others answer.

Bytes pass by `torch.distributed`: gloo between CPUs, NCCL between GPUs. Nothing is pickled.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cutlayer.errors import CutlayerError, JobError, RunError
from cutlayer.job import Job
from cutlayer.simulation.parcel import Parcel

_LOOK_S = 0.001
_JOIN = timedelta(minutes=10)
_PATIENCE = timedelta(days=1)
"""How long one rank waits for another that is there: for the longest round, or test, of any job."""
_ERROR = "error"


class Ranks:
    """The processes of one run. rank: the number of this one, from 0; count: how many there are.

    here: how many of them this machine has. at_work: whether rank 0 still has work for the others.
    """

    def __init__(self, store: Store, rank: int, count: int, here: int) -> None:
        self.rank, self.count, self.here = rank, count, here
        self.at_work = True
        self._store = store
        self._device = self._next = torch.device("cpu")
        self._waited_for = False

    def use(self, job: Job) -> str:
        """After this answer, send from where a job computes: every rank calls it for one request.

        Returns the kind of that torch device. Raises JobError where ranks and GPUs do not fit it.
        """
        compute = job.training.compute
        if compute.startswith("cuda:"):
            raise JobError(
                f"training.compute: {compute!r} names one GPU, and each rank takes its own: take "
                "cuda or auto"
            )
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if compute in ("cpu", "mps") or not there:
            return self._next.type
        if self.here > there:
            raise JobError(
                f"torchrun: {self.here} ranks on a machine with {there} GPUs: start "
                f"--nproc-per-node {there}, or take training.compute cpu"
            )
        self._next = torch.device("cuda", torch.cuda.current_device())
        return self._next.type

    def ask(self, request: Parcel, own: Callable[[], Parcel]) -> list[Parcel]:
        """Have every rank answer a request; returns the answers by rank.

        own: rank 0's own answer. Raises RunError with what the first one says that fails, or where
        one has ended.
        """
        self._waited_for = True
        self._spread(request.pack())
        answer = _tried(own)
        found = [Parcel.unpack(one) for one in self._gather(answer.pack())[1:]]
        self._waited_for = False
        for one in (answer, *found):
            if _ERROR in one.values:
                raise RunError(str(one.values[_ERROR]))
        return [answer, *found]

    def serve(self, answer: Callable[[Parcel], Parcel]) -> None:
        """Answer rank 0 until it has no more work. Raises RunError where it has ended."""
        while request := self._spread(None):
            asked = Parcel.unpack(request)
            self._gather(_tried(lambda asked=asked: answer(asked)).pack())  # type: ignore[misc]

    def stop(self) -> None:
        """Let the others go: rank 0 has no more work for them."""
        if self.at_work and self.rank == 0 and not self._waited_for:
            self._spread(b"")
        self.at_work = False

    def take_number(self) -> int:
        """A number from 0 on that no rank has taken yet."""
        return int(self._store.add("taken", 1)) - 1

    def fail(self) -> None:
        """Tell all ranks that something failed on this one."""
        self._store.add("failed", 1)

    def has_failed(self) -> bool:
        """Whether something failed on any rank."""
        return int(self._store.add("failed", 0)) > 0

    def _spread(self, sent: bytes | None) -> bytes:
        """The bytes that rank 0 sends to all; None on the others."""
        size = torch.tensor([len(sent or b"")])
        self._wait(lambda: dist.broadcast(size, 0, async_op=True))
        if not int(size):
            return b""
        data = torch.empty(int(size), dtype=torch.uint8, device=self._device)
        if sent is not None:
            data = _bytes(sent).to(self._device)
        self._wait(lambda: dist.broadcast(data, 0, async_op=True))
        return sent if sent is not None else data.cpu().numpy().tobytes()

    def _gather(self, sent: bytes) -> list[bytes]:
        """The bytes of every rank, at rank 0; elsewhere none."""
        sizes = [torch.tensor([0]) for _ in range(self.count)]
        self._wait(lambda: dist.all_gather(sizes, torch.tensor([len(sent)]), async_op=True))
        most = max(map(int, sizes))
        data = torch.zeros(most, dtype=torch.uint8, device=self._device)
        data[: len(sent)] = _bytes(sent).to(self._device)
        into = [torch.empty_like(data) for _ in sizes] if self.rank == 0 else None
        self._wait(lambda: dist.gather(data, into, 0, async_op=True))
        self._device = self._next
        return [
            one[: int(size)].cpu().numpy().tobytes()
            for one, size in zip(into or [], sizes, strict=False)
        ]

    def _wait(self, begin: Callable[[], dist.Work]) -> None:
        """Wait, still open to Ctrl-C. Raises RunError where another rank has ended."""
        try:
            work = begin()
            while not work.is_completed():
                time.sleep(_LOOK_S)
            work.wait()
        except RuntimeError as error:
            raise RunError(
                f"torchrun: rank {self.rank} waited for another rank, which has ended or cannot be "
                f"reached ({str(error).splitlines()[0][:120]}): rounds that were finished are "
                "kept, go on with cutlayer simulate --resume"
            ) from None


def _tried(answer: Callable[[], Parcel]) -> Parcel:
    """What the work answers, or the sentence of the error that it raised."""
    try:
        return answer()
    except CutlayerError as error:
        return Parcel({_ERROR: str(error)})


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


@contextmanager
def joined_ranks() -> Iterator[Ranks | None]:
    """The ranks that `torchrun` started this process among; None where it is alone.

    On leaving, rank 0 lets the others go. Raises RunError where they cannot be reached.
    """
    count = _number("WORLD_SIZE", 1)
    if count < 2:
        yield None
        return
    rank, local = _number("RANK", 0), _number("LOCAL_RANK", 0)
    kind = "gloo"
    if torch.cuda.is_available():
        kind = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local % torch.cuda.device_count())
    try:
        store, _, _ = next(rendezvous("env://", rank, count, timeout=_JOIN))
        store.set_timeout(_JOIN)
        dist.init_process_group(
            kind, store=PrefixStore("group", store), rank=rank, world_size=count,
            timeout=_PATIENCE,
        )  # fmt: skip
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"torchrun: rank {rank} of {count} cannot reach the others "
            f"({str(error).splitlines()[0][:120]}): check MASTER_ADDR and MASTER_PORT, and that "
            "machines may connect to each other"
        ) from None
    ranks = Ranks(PrefixStore("runs", store), rank, count, _number("LOCAL_WORLD_SIZE", count))
    try:
        yield ranks
    except BaseException:
        with suppress(RunError):  # what ended this rank is what is told
            ranks.stop()
        raise
    ranks.stop()
    dist.destroy_process_group()


def _number(name: str, otherwise: int) -> int:
    """A whole number of the environment. Raises JobError for anything else."""
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal() or len(text) > 9:
        raise JobError(f"{name}: {text!r} is no number of ranks: start cutlayer by torchrun")
    return int(text)
