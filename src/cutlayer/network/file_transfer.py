"""Fetches files that a server has for its devices, piece by piece, checks them, and keeps them."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from cutlayer.errors import NetworkError, RunError
from cutlayer.files import cache_folder
from cutlayer.fingerprint import of_file, of_parts
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import Fetch, PartFile

OnPiece = Callable[[str, int, int], None]
"""Called with a file's name, the bytes of it that are there, and the bytes of the whole file."""


def describe_files(paths: list[Path]) -> list[PartFile]:
    """Names, sizes and hashes of files."""
    return [PartFile(path.name, path.stat().st_size, of_file(path)) for path in paths]


async def fetch_files(
    connection: Connection, files: Sequence[PartFile], on_piece: OnPiece, folder: Path | None = None
) -> Path:
    """The folder of a part's files; fetches what is missing and continues a broken download.

    folder: None: a cache folder named by the files' hashes. Raises NetworkError when the connection
    ends or a file comes damaged, RunError when a file cannot be written.
    """
    folder = folder or folder_of(files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            if not await asyncio.to_thread(_whole, folder / file.name, file):
                await _fetch(connection, file, folder, on_piece)
    except OSError as error:
        raise RunError(
            f"model: its part cannot be kept in {folder} ({error.strerror}): free some space, or "
            "name another folder in CUTLAYER_CACHE"
        ) from None
    return folder


def folder_of(files: Sequence[PartFile]) -> Path:
    """Where such files are kept on this machine."""
    name = of_parts(*(f"{file.name} {file.sha256}" for file in files))[:32]
    return cache_folder() / "parts" / name


def _whole(path: Path, file: PartFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and of_file(path) == file.sha256


async def _fetch(connection: Connection, file: PartFile, folder: Path, on_piece: OnPiece) -> None:
    # The device's name is in the file's name, since several devices on one machine may fetch it.
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
                    raise NetworkError(
                        f"download: {file.name} came in pieces that do not fit its size"
                    )
                out.write(piece)
                on_piece(file.name, held, file.size)
    # Hashing gigabytes takes seconds, in which the connection must go on answering.
    if await asyncio.to_thread(of_file, partial) != file.sha256:
        partial.unlink()
        raise NetworkError(f"download: {file.name} came damaged")
    partial.replace(folder / file.name)
