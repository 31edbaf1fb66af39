"""Marks: what people say about a checkpoint from outside of its commit: a pin, or a tag; and what they ask for.

A mark's key says everything, so that one listing tells the writer what to spare: ``user/00000042-pin.json``,
``user/00000042-tag-<the name's UTF-8 bytes in hexadecimal>.json``. What is in it is for people. A removal that
somebody asked for while a training holds the run is ``user/drop-<nonce>.json``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.sealed import seal, unseal

USER = "user/"
MAX_TAG = 60
"""Bytes of a tag's name: its hexadecimal digits have to fit into a file name."""

_MARK = re.compile(r"user/(\d{8,})-(?:pin|tag-((?:[0-9a-f]{2})+))\.json")
_DROP = re.compile(r"user/drop-[0-9a-f]{32}\.json")


@dataclass(frozen=True, slots=True)
class Mark:
    """A pin (`tag` is None) or a tag of the checkpoint with number `seq`."""

    seq: int
    tag: str | None = None

    @property
    def key(self) -> str:
        """Where it lies."""
        return f"{USER}{self.seq:08d}-{'pin' if self.tag is None else 'tag-' + self.tag.encode().hex()}.json"

    def __str__(self) -> str:
        return "pinned" if self.tag is None else f"tag {self.tag}"


def mark_of(key: str) -> Mark | None:
    """The mark that a key under ``user/`` is, or None."""
    match = _MARK.fullmatch(key)
    if match is None:
        return None
    try:
        mark = Mark(int(match[1]), bytes.fromhex(match[2]).decode() if match[2] else None)
    except UnicodeDecodeError:
        return None
    return mark if mark.key == key else None  # another spelling could never be taken away


def by_seq(keys: Iterable[str]) -> dict[int, tuple[Mark, ...]]:
    """The marks among `keys` by sequence number, each one's pin before its tags."""
    grouped: dict[int, tuple[Mark, ...]] = {}
    for mark in sorted((m for key in keys if (m := mark_of(key))), key=lambda mark: (mark.seq, mark.tag or "")):
        grouped[mark.seq] = (*grouped.get(mark.seq, ()), mark)
    return grouped


def check_tag(name: str) -> str:
    """`name` if it can be a tag; raises `ValueError` for one that would mean something else, or is too long."""
    if not name or len(name.encode(errors="replace")) > MAX_TAG or not name.isprintable() or name != name.strip():
        raise ValueError(f"{name!r} cannot be a tag: use 1 to {MAX_TAG} bytes of printable characters")
    if "@" in name:
        raise ValueError(f"{name!r} cannot be a tag: ROOT@{name} would name a checkpoint of another root")
    if name in ("latest", "best") or name.isdecimal():
        raise ValueError(f"{name!r} cannot be a tag: it already names a checkpoint by another rule")
    return name


def drop_key() -> str:
    """A key that no other request will ever have."""
    return f"{USER}drop-{secrets.token_hex(16)}.json"


def is_drop(key: str) -> bool:
    """Whether a key is that of a request to remove checkpoints."""
    return _DROP.fullmatch(key) is not None


def encode(author: str, created: int, drop: Collection[int] = (), damaged: Collection[int] = ()) -> bytes:
    """A mark or request: who made it, when (microseconds since the epoch), and which checkpoints are to go.

    Of those some may be known to be `damaged`.
    """
    return seal({"author": author, "created": created, "drop": [*sorted(drop)], "damaged": [*sorted(damaged)]})


@dataclass(frozen=True, slots=True)
class Drop:
    """Who asks for a removal, and of which checkpoints; `damaged` are those that are to go although they are that."""

    author: str
    seqs: frozenset[int]
    damaged: frozenset[int]


def decode_drop(data: bytes | memoryview, what: str) -> Drop:
    """What a request says; raises `CheckpointCorruptError` or `UnsupportedFormat`."""
    fields = unseal(data, what)
    try:
        seqs = frozenset(map(int, fields["drop"]))
        return Drop(str(fields["author"]), seqs, seqs.intersection(map(int, fields.get("damaged", ()))))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorruptError(f"{what} lacks or misuses a field: {error!r}") from error
