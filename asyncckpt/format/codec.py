"""Codec: how the bytes of a pack or of a document are stored: as they are, compressed, encrypted, or both.

In manifests it is a word: ``none``, ``zstd``, ``aes256gcm:<key id>`` or ``zstd+aes256gcm:<key id>``; in the names of
files a suffix: nothing, ``.zst``, ``.enc`` or ``.zst.enc``. What encrypts also authenticates, and is bound to the name
and to the place in it: bytes that were changed or moved are damage (see `asyncckpt.format.cipher`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from asyncckpt import keys
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError
from asyncckpt.extras import imported

COMPRESSION, ENCRYPTION = "zstd", "aes256gcm"

WANTED = (COMPRESSION, ENCRYPTION, f"{COMPRESSION}+{ENCRYPTION}")
"""What a user may ask for."""

LEVEL = 1
"""Of zstd: weights hardly shrink more at a higher one, which takes three times as long."""

_KEY = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Codec:
    """`key` is the id of the key that it encrypts with, None where it does not."""

    compresses: bool = False
    key: str | None = None

    @property
    def word(self) -> str:
        """As manifests have it."""
        parts = [COMPRESSION] if self.compresses else []
        parts += [f"{ENCRYPTION}:{self.key}"] if self.key else []
        return "+".join(parts) or "none"

    @property
    def suffix(self) -> str:
        """Behind the name of what is stored so."""
        return (".zst" if self.compresses else "") + (".enc" if self.key else "")

    @property
    def is_plain(self) -> bool:
        return not self.compresses and self.key is None


PLAIN = Codec()


def codec_of(word: str) -> Codec:
    """The codec of that word; raises `ValueError` for one that is not known here."""
    parts = word.split("+")
    compresses = parts[0] == COMPRESSION
    rest = parts[1:] if compresses else parts
    if word == "none" or (compresses and not rest):
        return Codec(compresses)
    name, _, key = rest[0].partition(":")
    if len(rest) != 1 or name != ENCRYPTION or not _KEY.fullmatch(key):
        raise ValueError(f"unknown codec {word!r}")
    return Codec(compresses, key)


def wanted(word: str | None) -> Codec:
    """What a user asks for, with the key to write with; its libraries are looked for at once.

    `word` is one of `WANTED`. Raises `KeyUnavailable` without a key, and `AsyncCkptError`, naming the extra, without a
    library.
    """
    if word is None:
        return PLAIN
    codec = Codec(word.startswith(COMPRESSION), keys.primary().id if word.endswith(ENCRYPTION) else None)
    if codec.compresses:
        zstd(f"codec={word!r}")
    if codec.key is not None:
        aead(f"codec={word!r}")
    return codec


def zstd(what: str) -> Any:
    """The library that compresses."""
    return imported("zstandard", "zstd", f"{what} needs zstandard", AsyncCkptError)


def aead(what: str) -> Any:
    """The library that encrypts and authenticates."""
    return imported(
        "cryptography.hazmat.primitives.ciphers.aead", "crypto", f"{what} needs cryptography", AsyncCkptError
    )


class Compressor:
    """Compresses one thing after the other; for one thread."""

    def __init__(self, what: str) -> None:
        self._zstd = zstd(what).ZstdCompressor(level=LEVEL)

    def squeeze(self, data: bytes | memoryview) -> bytes | memoryview:
        """`data` compressed, or as it is where that is not longer: the length tells which."""
        packed: bytes = self._zstd.compress(data)
        return packed if len(packed) < len(data) else data


def stretched(data: bytes, length: int, what: str) -> bytes:
    """The inverse of `Compressor.squeeze`, of which `length` bytes come; raises `CheckpointCorruptError`."""
    if len(data) == length:
        return data
    library = zstd(what)
    try:
        if library.frame_content_size(data) not in (length, -1):  # or it makes room for whatever stands there
            raise CheckpointCorruptError(f"{what} holds another number of bytes than {length}")
        found: bytes = library.ZstdDecompressor().decompress(data, max_output_size=length)
    except library.ZstdError as error:
        raise CheckpointCorruptError(f"{what} cannot be decompressed: {error}") from error
    if len(found) != length:
        raise CheckpointCorruptError(f"{what} holds {len(found)} bytes instead of {length}")
    return found
