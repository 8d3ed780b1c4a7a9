"""The server's cache of samples in the run folder: appended to round by round, read on resuming.

A file of records: device, sample, setting, basis, rate, length and CRC-32 as little-endian numbers
of 4, 4, 8, 8, 8 (a float), 8 and 4 bytes, then the frame. The state of a run says how much of it is
its own.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cutlayer.files import open_plain, write_atomically
from cutlayer.record.folder import SENT_FILE
from cutlayer.train.sample_cache import SampleCache, SentSample

_HEAD = struct.Struct("<IIQQdQI")
_NO_BASIS = 2**64 - 1


def append_sent(folder: Path, cache: SampleCache, length: int) -> int:
    """Append the samples that came since the last call after byte `length`; returns the new length.

    Where much of the file has become stale, it is written anew. Raises OSError.
    """
    path, new = folder / SENT_FILE, b"".join(map(_pack, cache.take_new()))
    if length + len(new) > 2 * cache.limit_bytes:
        whole = b"".join(map(_pack, cache.saved()))
        write_atomically(path, whole)
        return len(whole)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(length)
        file.seek(length)
        file.write(new)
        file.flush()
        os.fsync(file.fileno())
    return length + len(new)


def read_sent(folder: Path, cache: SampleCache, length: int, say: Callable[[str], object]) -> int:
    """Put the samples of the first `length` bytes into the cache; returns how many were whole.

    say: told how many samples the server has kept, and where some are damaged or missing, which
    devices then send again.
    """
    sound = 0
    try:
        with open_plain(folder / SENT_FILE) as file:
            for one, end in _records(file, length):
                if cache.used_bytes + len(one.frame) > cache.limit_bytes:
                    break
                cache.restore(one)
                sound = end
    except FileNotFoundError:
        pass
    except (OSError, ValueError, struct.error) as error:
        say(f"{folder / SENT_FILE}: {error}")
    if length:
        lost = "" if sound == length else "; what is missing of them is asked for again"
        say(f"the server has kept {sum(1 for _ in cache)} samples that devices need not send{lost}")
    return sound


def _pack(one: SentSample) -> bytes:
    basis = _NO_BASIS if one.basis is None else one.basis
    check = zlib.crc32(one.frame)
    head = _HEAD.pack(
        one.device, one.sample, one.setting, basis, one.rate_bits, len(one.frame), check
    )
    return head + one.frame


def _records(file: BinaryIO, length: int) -> Iterator[tuple[SentSample, int]]:
    """Each record and where it ends; raises ValueError or struct.error for a damaged one."""
    end = 0
    while end < length:
        device, sample, setting, basis, rate, size, check = _HEAD.unpack(file.read(_HEAD.size))
        end += _HEAD.size + size
        if end > length:
            raise ValueError("it ends in the middle of a sample")
        frame = file.read(size)
        if len(frame) != size or zlib.crc32(frame) != check:
            raise ValueError("a sample is damaged")
        known = None if basis == _NO_BASIS else basis
        yield SentSample(device, sample, setting, known, frame, rate), end
