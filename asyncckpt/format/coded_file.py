"""Coded file: a file that is compressed, encrypted or both, as its name ends: ``.zst``, ``.enc``, ``.zst.enc``.

What is only compressed any tool opens. What is encrypted begins with a line that names the key; then come frames, each
with its length, of which the last says that it is the last: a file that was cut is damage, and so is one whose frames
were changed or moved.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from asyncckpt import keys
from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.cipher import Cipher, new_salt
from asyncckpt.format.codec import Codec, zstd

FRAME = 64 << 10
"""Bytes that are encrypted at a time."""

SUFFIXES = ("", ".zst", ".enc", ".zst.enc")
"""What a file may have behind its name."""

LEVEL = 3
"""Of zstd: text shrinks to a tenth, and there is little of it."""

_ABOUT = "file"


def codec_for(path: Path) -> Codec:
    """What the name of a file says; raises `KeyUnavailable` for an encrypted one without any key to write with."""
    is_locked = path.suffix == ".enc"
    inner = path.with_suffix("") if is_locked else path
    return Codec(inner.suffix == ".zst", keys.primary().id if is_locked else None)


def stored(parts: Iterable[bytes], codec: Codec) -> Iterator[bytes]:
    """The bytes of a file of these `parts`, as they come."""
    if codec.compresses:
        parts = _compressed(parts)
    return iter(parts) if codec.key is None else _locked(parts, codec)


def _compressed(parts: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zstd("a .zst file").ZstdCompressor(level=LEVEL).compressobj()
    for part in parts:
        if packed := compressor.compress(part):
            yield packed
    yield compressor.flush()


def _locked(parts: Iterable[bytes], codec: Codec) -> Iterator[bytes]:
    salt = new_salt()
    head = json.dumps({"asyncckpt": "encrypted", "codec": codec.word, "salt": salt}).encode() + b"\n"
    cipher = Cipher(codec.key or "", salt, _ABOUT, "a file")
    yield head
    waiting, number = bytearray(), 0
    for part in parts:
        waiting += part
        while len(waiting) > FRAME:  # one is left, which may be the last
            yield _frame(cipher.lock(number, bytes(waiting[:FRAME]), _beside(head, is_last=False)))
            del waiting[:FRAME]
            number += 1
    yield _frame(cipher.lock(number, bytes(waiting), _beside(head, is_last=True)))


def _frame(locked: bytes) -> bytes:
    return len(locked).to_bytes(4, "big") + locked


def _beside(head: bytes, *, is_last: bool) -> bytes:
    return head + (b"last" if is_last else b"more")


def opened(file: IO[bytes], name: str) -> IO[bytes]:
    """The `file` of that name, a path, to read what was stored in it; closed with it.

    Raises `OSError`, `KeyUnavailable`, and `CheckpointCorruptError` for what was cut or changed; some of that only when
    it is read so far.
    """
    path = Path(name)
    try:
        is_locked = path.suffix == ".enc"
        compresses = (path.with_suffix("") if is_locked else path).suffix == ".zst"
        plain: IO[bytes] = io.BufferedReader(_Unlocking(file, str(path)), FRAME) if is_locked else file
        if not compresses:
            return plain
        return _whole(zstd(f"{path}").ZstdDecompressor().stream_reader(plain, closefd=True), str(path))
    except BaseException:
        file.close()
        raise


def unpacked(data: bytes, name: str) -> bytes:
    """What was stored in the `data` of a file of that name. Raises `KeyUnavailable` and `CheckpointCorruptError`."""
    with opened(io.BytesIO(data), name) as file:
        return file.read()


def _whole(stream: Any, what: str) -> IO[bytes]:
    return io.BufferedReader(_Stretching(stream, what), FRAME)


class _Stretching(io.RawIOBase):
    """Reads what is compressed; what is wrong with it is named."""

    def __init__(self, stream: Any, what: str) -> None:
        self._stream, self._what = stream, what

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        try:
            return int(self._stream.readinto(into))
        except zstd(self._what).ZstdError as error:
            raise CheckpointCorruptError(f"{self._what} cannot be decompressed: {error}") from error

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class _Unlocking(io.RawIOBase):
    """Reads what is encrypted."""

    def __init__(self, file: IO[bytes], what: str) -> None:
        self._file, self._what = file, what
        self._head = file.readline(4096)
        try:
            said = json.loads(self._head)
            key, salt = said["codec"].rpartition(":")[2], said["salt"]
            bytes.fromhex(salt)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointCorruptError(f"{what} is not an encrypted file of asyncckpt: {error!r}") from error
        self._cipher = Cipher(key, salt, _ABOUT, what)
        self._number, self._plain, self._is_over = 0, b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self._plain and not self._is_over:
            self._plain = self._next()
        size = min(len(into), len(self._plain))
        into[:size], self._plain = self._plain[:size], self._plain[size:]
        return size

    def _next(self) -> bytes:
        length = int.from_bytes(self._file.read(4), "big")
        locked = self._file.read(length) if length <= FRAME + 16 else b""
        place = self._file.read(1)
        self._is_over = not place
        if place:
            self._file.seek(-1, io.SEEK_CUR)
        plain = self._cipher.unlock(self._number, locked, _beside(self._head, is_last=self._is_over))
        self._number += 1
        return plain

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
