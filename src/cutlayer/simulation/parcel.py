"""What passes between processes: plain values and tensors, as bytes of JSON and safetensors."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cutlayer.errors import RunError

_HEAD = struct.Struct("<Q")


@dataclass(frozen=True)
class Parcel:
    """values: what JSON can hold, by name. tensors: by name; they arrive on the CPU."""

    values: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The parcel as bytes."""
        text = json.dumps(dict(self.values)).encode()
        tensors = {n: t.detach().cpu().contiguous().clone() for n, t in self.tensors.items()}
        packed: bytes = save(tensors)
        return _HEAD.pack(len(text)) + text + packed

    @classmethod
    def unpack(cls, packed: bytes) -> "Parcel":
        """Read a parcel from its bytes. Raises RunError for bytes that are no parcel."""
        try:
            (length,) = _HEAD.unpack_from(packed)
            end = _HEAD.size + length
            return cls(json.loads(packed[_HEAD.size : end]), load(packed[end:]))
        except (struct.error, ValueError, SafetensorError, RecursionError) as error:
            raise RunError(
                f"torchrun: a rank sent what is no parcel of cutlayer's ({error}): run the same "
                "cutlayer on all machines"
            ) from None
