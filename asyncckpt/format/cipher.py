"""Cipher: AES-256-GCM for the parts of one thing: a pack, a document, a file.

A nonce that is used twice with one key gives both texts away. Random ones of 96 bits are too few for a key that lives
for years; so each thing that is encrypted has a random salt of 128 bits, and from that, from what the thing is and from
the user's key a key of its own (HKDF). Under that the nonce is the number of the part, and each number is used once: a
put that is made again takes a new salt.
"""

from __future__ import annotations

import secrets
from typing import Any

from asyncckpt import keys
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError
from asyncckpt.extras import imported
from asyncckpt.format.codec import aead

OVERHEAD = 16
"""Bytes by which a part grows: its tag."""

_HOME = "cryptography.hazmat.primitives"


def new_salt() -> str:
    """For one thing, and no other."""
    return secrets.token_hex(16)


class Cipher:
    """Encrypts and decrypts with the key of that id, for the thing `about` with that `salt`; `what` names it in errors.

    Raises `KeyUnavailable` without the key, and `AsyncCkptError` without the library. For one thread.
    """

    def __init__(self, key: str, salt: str, about: str, what: str) -> None:
        self._what = what
        library = aead(what)
        hkdf, hashes = (imported(f"{_HOME}.{name}", "crypto", what, AsyncCkptError) for name in ("kdf.hkdf", "hashes"))
        derivation = hkdf.HKDF(hashes.SHA256(), keys.SIZE, bytes.fromhex(salt), f"asyncckpt {about}".encode())
        self._aead: Any = library.AESGCM(derivation.derive(keys.find(key, what).secret))

    def lock(self, number: int, data: bytes | memoryview, beside: bytes) -> bytes:
        """Part `number`, encrypted; `beside` is what it is bound to, and is not stored."""
        locked: bytes = self._aead.encrypt(number.to_bytes(12, "big"), data, beside)
        return locked

    def unlock(self, number: int, data: bytes | memoryview, beside: bytes) -> bytes:
        """The inverse of `lock`; raises `CheckpointCorruptError` for anything that it did not make in this place."""
        from cryptography.exceptions import InvalidTag

        try:
            plain: bytes = self._aead.decrypt(number.to_bytes(12, "big"), data, beside)
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a tag
            raise CheckpointCorruptError(
                f"{self._what} was changed, or is in another's place: part {number}"
            ) from error
        return plain
