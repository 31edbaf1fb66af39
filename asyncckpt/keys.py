"""Keys: what encrypted checkpoints and configurations are written and read with.

A key is 32 random bytes; `generate` makes one. This package stores none: it takes them from the environment
(``ASYNCCKPT_KEY``, several separated by commas; or ``ASYNCCKPT_KEY_FILE``, one on each line), or from what was
registered in this process. New data is encrypted with the key that was registered last, else with the first of the
environment; all others are for reading. A key has an id, which is derived from it and says nothing about it: that is
what stands beside the data, so that whoever lacks the key is told which one it takes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from asyncckpt.errors import KeyUnavailable

VARIABLE = "ASYNCCKPT_KEY"
FILE_VARIABLE = "ASYNCCKPT_KEY_FILE"

SIZE = 32
"""Bytes of a key."""

Source: TypeAlias = bytes | str | os.PathLike[str] | Callable[[], bytes | str]
"""The bytes of a key, their base64 or hexadecimal text, the path of a file that holds such text, or what returns one
of the first two when it is asked."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key."""

    secret: bytes = field(repr=False)
    id: str = field(init=False, compare=False)
    """What names it: 16 hexadecimal digits."""

    def __post_init__(self) -> None:
        if len(self.secret) != SIZE:
            raise ValueError(f"a key has {SIZE} bytes, not {len(self.secret)}: keys.generate() makes one")
        object.__setattr__(self, "id", hashlib.sha256(b"asyncckpt key id\0" + self.secret).hexdigest()[:16])


_registered: list[Key] = []
_used: dict[str, Key] = {}
_lock = threading.Lock()


def generate() -> str:
    """A new key as text, for ``ASYNCCKPT_KEY`` or a file."""
    return base64.b64encode(secrets.token_bytes(SIZE)).decode("ascii")


def register(source: Source) -> str:
    """Know a key in this process, and write with it from now on; returns its id. Asked once, now.

    Register before a checkpointer is made: its worker process is told the keys when it starts. Raises `ValueError` for
    what is no key, and `OSError` for a file that cannot be read.
    """
    key = _key(source)
    with _lock:
        _registered[:] = [*(known for known in _registered if known != key), key]
    return key.id


def forget() -> None:
    """Know none of those that were registered any more, nor of the environment's what was written with before."""
    with _lock:
        _registered.clear()
        _used.clear()


def registered() -> tuple[Key, ...]:
    """Those that were, in that order: a worker process has the environment, and is told these."""
    with _lock:
        return tuple(_registered)


def known() -> tuple[Key, ...]:
    """Every key there is, first the one that is written with; raises `KeyUnavailable` where a variable is wrong."""
    return tuple(dict.fromkeys([*reversed(registered()), *_of_environment()]))


def primary() -> Key:
    """The key to write with; raises `KeyUnavailable` where there is none."""
    if not (found := known()):
        raise KeyUnavailable(f"there is no key to encrypt with: {_way_out()}")
    with _lock:
        # A variable that is taken away, a file that is replaced or unmounted: who writes with it goes on doing so.
        _used[found[0].id] = found[0]
    return found[0]


def find(key_id: str, what: str) -> Key:
    """The key with the id `key_id`; raises `KeyUnavailable`, naming it and `what` needs it, where it is not here."""
    with _lock:
        here_already = {**_used, **{key.id: key for key in _registered}}
    if key_id in here_already:
        return here_already[key_id]
    found = known()
    for key in found:
        if key.id == key_id:
            return key
    here = f"here are {', '.join(key.id for key in found)}" if found else "there is none here"
    raise KeyUnavailable(f"{what} is encrypted with key {key_id}, and {here}: {_way_out()}")


def _way_out() -> str:
    return f"put it in {VARIABLE} (or its file in {FILE_VARIABLE}), or give it to asyncckpt.keys.register()"


def _key(source: Source) -> Key:
    if callable(source):
        source = source()
    if isinstance(source, bytes):
        return Key(source)
    if isinstance(source, os.PathLike):
        return Key(_decoded(Path(source).read_text("ascii")))
    return Key(_decoded(source))


def _of_environment() -> list[Key]:
    found = [(VARIABLE, text) for text in os.environ.get(VARIABLE, "").split(",")]
    if path := os.environ.get(FILE_VARIABLE):
        try:
            found += [(FILE_VARIABLE, line) for line in Path(path).read_text("ascii").splitlines()]
        except (OSError, ValueError) as error:
            raise KeyUnavailable(f"{FILE_VARIABLE} names a file that cannot be read: {error}") from error
    keys = []
    for variable, text in found:
        if text.strip():
            try:
                keys.append(Key(_decoded(text)))
            except ValueError as error:
                raise KeyUnavailable(f"{variable} holds what is no key: {error}") from None  # the text is a secret
    return keys


def _decoded(text: str) -> bytes:
    text = text.strip()
    try:
        return bytes.fromhex(text) if len(text) == 2 * SIZE else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"it is neither the base64 nor the hexadecimal text of {SIZE} bytes") from None
