"""A device's part of the model: fetched from the server piece by piece, checked, and kept."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from cutlayer.errors import ModelError, NetworkError, RunError
from cutlayer.files import cache_folder
from cutlayer.fingerprint import of_file, of_parts
from cutlayer.job import Job
from cutlayer.model.cut import Part
from cutlayer.model.part import write_part
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import Fetch, PartFile, Task

OnPiece = Callable[[str, int, int], None]
"""Told a file's name, the bytes there are of it, and those of the whole."""


def part_of(job: Job) -> Part:
    """What of the model a device of the job runs."""
    return "device" if job.method.split else "whole"


def describe_files(paths: list[Path]) -> list[PartFile]:
    """Names, sizes and hashes of files."""
    return [PartFile(path.name, path.stat().st_size, of_file(path)) for path in paths]


async def fetch_part(connection: Connection, task: Task, on_piece: OnPiece) -> Path:
    """The folder of the part's files; what is missing is fetched, a broken download continued.

    Raises NetworkError when the connection ends or a file comes damaged, RunError when it cannot
    be written.
    """
    folder = cache_folder() / "parts" / _name_of(task.files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in task.files:
            if not await asyncio.to_thread(_whole, folder / file.name, file):
                await _fetch(connection, file, folder, on_piece)
    except OSError as error:
        raise RunError(
            f"model: its part cannot be kept in {folder} ({error.strerror}): free some space, or "
            "name another folder in CUTLAYER_CACHE"
        ) from None
    return folder


def own_part(checkpoint: Path, job: Job, task: Task) -> Path:
    """The folder of the part's files, made from a checkpoint on this machine.

    Raises ModelError unless they are equal to the server's in every bit.
    """
    folder = cache_folder() / "parts" / _name_of(task.files)
    model = job.model.model_copy(update={"path": str(checkpoint), "cut": task.cut})
    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        if describe_files(write_part(made, model, job.seed, part_of(job))) != task.files:
            raise ModelError(
                f"--model: {checkpoint} is not the checkpoint that the server trains: take the "
                "same, or leave --model out to have the part sent"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for file in task.files:
            (made / file.name).replace(folder / file.name)
    finally:
        for path in made.glob("*"):
            path.unlink()
        made.rmdir()
    return folder


def _name_of(files: list[PartFile]) -> str:
    return of_parts(*(f"{file.name} {file.sha256}" for file in files))[:32]


def _whole(path: Path, file: PartFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and of_file(path) == file.sha256


async def _fetch(connection: Connection, file: PartFile, folder: Path, on_piece: OnPiece) -> None:
    # The device's own name is in it: several devices on one machine may fetch the file at once.
    partial = folder / f".{file.name}.{connection.name}.part"
    held = partial.stat().st_size if partial.exists() else 0
    if held > file.size:
        partial.unlink()
        held = 0
    if held < file.size:
        await connection.tell(Fetch(file.name, held))
        with partial.open("ab") as out:
            while held < file.size:
                piece = await connection.receive(Lane.DOWN)
                held += len(piece)
                if not piece or held > file.size:
                    raise NetworkError(f"download: {file.name} came in other pieces than it has")
                out.write(piece)
                on_piece(file.name, held, file.size)
    # Hashing gigabytes takes seconds, in which the connection must go on answering.
    if await asyncio.to_thread(of_file, partial) != file.sha256:
        partial.unlink()
        raise NetworkError(f"download: {file.name} came damaged")
    partial.replace(folder / file.name)
