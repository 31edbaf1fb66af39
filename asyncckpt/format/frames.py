"""Frames: a pack that is not stored as it is, in pieces of 1 MiB, so that any range of it can be read by itself.

Everything else counts in the pack's plain bytes: extents, digests, what two checkpoints share. The manifest says of
each frame how many bytes are stored and what their digest is, so that whoever has no key can still tell damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.cipher import OVERHEAD, Cipher
from asyncckpt.format.codec import Codec, Compressor, stretched
from asyncckpt.format.digest import digest
from asyncckpt.format.sealed import Json

FRAME = 1 << 20
"""Plain bytes of one frame: a small tensor costs the reading of one, and a hundred thousand are 100 GB."""


@dataclass(frozen=True)
class Frames:
    """The frames of one pack, and what is stored of each."""

    size: int
    """Plain bytes of each but the last."""
    salt: str
    """Of the cipher; empty where nothing is encrypted."""
    stored: tuple[tuple[int, str], ...]
    """Length and digest."""

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Where each ends, in the stored pack."""
        return tuple(accumulate(length for length, _ in self.stored))

    @property
    def length(self) -> int:
        """Bytes of the stored pack."""
        return self.ends[-1] if self.ends else 0

    def start(self, number: int) -> int:
        """Where one begins in the stored pack."""
        return self.ends[number - 1] if number else 0

    def runs(self, start: int, length: int, most: int) -> Iterator[range]:
        """The frames that hold plain bytes ``[start, start + length)``, at most `most` at a time."""
        first, end = start // self.size, -(-(start + length) // self.size)
        for number in range(first, end, most):
            yield range(number, min(number + most, end))


def frames_json(frames: Frames) -> Json:
    """As manifests hold them."""
    return {"size": frames.size, "salt": frames.salt, "stored": [[length, found] for length, found in frames.stored]}


def frames_of(fields: Mapping[str, Any], length: int) -> Frames:
    """The inverse of `frames_json` for a pack of `length` plain bytes; raises KeyError, TypeError or ValueError."""
    size, salt, stored = fields["size"], fields["salt"], fields["stored"]
    if type(size) is not int or size <= 0 or not isinstance(salt, str):
        raise ValueError(f"frames of {size!r} bytes, salt {salt!r}")
    bytes.fromhex(salt)
    found = tuple((n, said) for n, said in stored)
    if any(type(n) is not int or n <= 0 or not isinstance(said, str) for n, said in found):
        raise ValueError("a frame has no length or no digest")
    if len(found) != -(-length // size):
        raise ValueError(f"{len(found)} frames of {size} bytes hold {length} bytes")
    return Frames(size, salt, found)


def most_stored(length: int, size: int = FRAME) -> int:
    """Bytes that a pack of `length` plain bytes is stored in at most: no frame is compressed to more than it was."""
    return length + -(-length // size) * OVERHEAD


class Framer:
    """Makes and opens the frames of the pack `name`, of `length` plain bytes; `what` names it in errors.

    Raises `KeyUnavailable` without the key, and `AsyncCkptError` without a library. For one thread.
    """

    def __init__(self, codec: Codec, name: str, length: int, salt: str, what: str, size: int = FRAME) -> None:
        self._name, self._length, self._size, self._what = name, length, size, what
        self._cipher = None if codec.key is None else Cipher(codec.key, salt, f"pack {name}", what)
        self._compressor = Compressor(what) if codec.compresses else None

    def make(self, number: int, plain: memoryview) -> bytes | memoryview:
        """Frame `number` of these bytes."""
        if len(plain) != self._plain(number):
            raise ValueError(f"frame {number} of {self._what} has {len(plain)} bytes, not {self._plain(number)}")
        data = plain if self._compressor is None else self._compressor.squeeze(plain)
        return data if self._cipher is None else self._cipher.lock(number, data, self._beside(number))

    def open(self, number: int, stored: memoryview, said: str) -> bytes | memoryview:
        """The inverse of `make`, for bytes whose digest is `said`; raises `CheckpointCorruptError`."""
        check_frame(number, stored, said, self._what)
        data = bytes(stored) if self._cipher is None else self._cipher.unlock(number, stored, self._beside(number))
        return stretched(data, self._plain(number), f"frame {number} of {self._what}")

    def _plain(self, number: int) -> int:
        return min(self._size, self._length - number * self._size)

    def _beside(self, number: int) -> bytes:
        # Its place, and that nothing is missing behind it.
        return f"{self._name} {number} {self._size} {self._length}".encode()


def check_frame(number: int, stored: memoryview, said: str, what: str) -> None:
    """Raise `CheckpointCorruptError` unless the stored bytes of a frame are what the manifest says."""
    if digest(stored) != said:
        raise CheckpointCorruptError(f"{what} does not match its digest in frame {number}")
