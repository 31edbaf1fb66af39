"""Names: where each object of a run lies. No name is ever used twice for different bytes.

::

    run.json                                        id, format, commit mode; written once
    commits/0000000042.json                         the record in slot 42, in mode "exclusive"
    commits/0000000003-0000000042-<writer>.json     in mode "fenced": incarnation, number, who wrote it
        ....ok  ....claim                           that record's confirmation; number 0: an incarnation's claim
    data/00000042-step-1000-i3-5f2c9a01/            sequence number, step, incarnation, nonce of one attempt
        rank-00000-of-00008.p0.safetensors          packs; .zst, .enc behind that where they are not stored as they are
        rank-00000-of-00008.json                    reports
        manifest.json
    user/                                           pins, tags and requests: see `asyncckpt.format.marks`
        probe-0123456789abcdef                      what `asyncckpt doctor` measured with, if it was killed meanwhile;
                                                    of `asyncckpt bench` a folder
    latest  best                                    hints, overwritten, never trusted
    preemptions                                     how often the run was preempted; overwritten

Numbers are padded for people; they are parsed as integers and never compared as text.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

RUN = "run.json"
COMMITS = "commits/"
DATA = "data/"
LATEST = "latest"
BEST = "best"
PREEMPTIONS = "preemptions"

_RECORD = re.compile(r"commits/(\d{10,})\.json")
_FENCED = re.compile(r"commits/(\d{10,})-(\d{10,})-([0-9a-f]{32})\.(json|ok|claim)")
_PROBE = re.compile(r"probe|\.probe-[0-9a-f]{16}|user/probe-[0-9a-f]{16}(/.*)?")
_PACK = re.compile(r"data/[^/]+/[^/]+\.safetensors(\.zst)?(\.enc)?")
_DIRECTORY = re.compile(r"data/(\d{8,})-step-(\d+)-i(\d+)-([0-9a-f]{8})")


def record_key(slot: int) -> str:
    """The key of the record in `slot`."""
    return f"{COMMITS}{slot:010d}.json"


def slot_of(key: str) -> int | None:
    """The slot that a key under ``commits/`` names, or None if it is not a record's name."""
    match = _RECORD.fullmatch(key)
    return int(match[1]) if match else None


def probe() -> str:
    """A key, or a folder, that no other probe will ever have: a sweep removes what a killed one has left."""
    return f"user/probe-{secrets.token_hex(8)}"


def is_probe(key: str) -> bool:
    """Whether somebody finds out with it what can be done in a store, and how fast."""
    return _PROBE.fullmatch(key) is not None


NUMBERS = 10**10
"""In mode "fenced", slots of one incarnation: incarnation 3 begins with slot 30000000000."""


@dataclass(frozen=True, slots=True)
class FencedName:
    """What one writer calls a record in mode "fenced": nobody else ever writes it."""

    inc: int
    number: int
    writer: str

    @property
    def slot(self) -> int:
        """Where it stands among all records."""
        return self.inc * NUMBERS + self.number

    @property
    def record(self) -> str:
        """The key of the record."""
        return f"{self._base}.json"

    @property
    def confirmation(self) -> str:
        """The key of what says that it counts."""
        return f"{self._base}.ok"

    @property
    def claim(self) -> str:
        """The key of what says, under number 0, that the writer wants to have the run."""
        return f"{self._base}.claim"

    @property
    def _base(self) -> str:
        return f"{COMMITS}{self.inc:010d}-{self.number:010d}-{self.writer}"


def fenced_name(slot: int, writer: str) -> FencedName:
    """What `writer` calls the record in `slot`."""
    return FencedName(*divmod(slot, NUMBERS), writer)


def fenced_of(key: str) -> tuple[FencedName, str] | None:
    """The name in a key under ``commits/``, and its ``json``, ``ok`` or ``claim``; None if it is none of these."""
    match = _FENCED.fullmatch(key)
    return (FencedName(int(match[1]), int(match[2]), match[3]), match[4]) if match else None


def before_fenced(slot: int) -> str:
    """A key that sorts before everything in `slot`, and after all in those below."""
    inc, number = divmod(slot, NUMBERS)
    return f"{COMMITS}{inc:010d}-{number:010d}"


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The folder of one attempt at one checkpoint."""

    seq: int
    step: int
    inc: int
    nonce: str

    @property
    def key(self) -> str:
        """The folder's key, without a slash at the end."""
        return f"{DATA}{self.seq:08d}-step-{self.step}-i{self.inc}-{self.nonce}"

    def pack(self, rank: int, world: int, number: int, suffix: str = "") -> str:
        """The key of pack `number` of `rank`; `suffix` is that of its codec."""
        return f"{self.key}/rank-{rank:05d}-of-{world:05d}.p{number}.safetensors{suffix}"

    def report(self, rank: int, world: int) -> str:
        """The key of the report of `rank`."""
        return f"{self.key}/rank-{rank:05d}-of-{world:05d}.json"

    @property
    def manifest(self) -> str:
        """The key of the manifest."""
        return f"{self.key}/manifest.json"


def is_pack(key: str) -> bool:
    """Whether a key is that of a pack, whatever it is stored with."""
    return _PACK.fullmatch(key) is not None


def link(hint: str) -> str:
    """The key of the link to the folder that a hint names."""
    return f"checkpoints/{hint}"


def directory_of(key: str) -> DataDirectory | None:
    """The attempt that an object under ``data/`` belongs to, or None if its name is not one of ours."""
    match = _DIRECTORY.fullmatch(key.rsplit("/", 1)[0])
    return DataDirectory(int(match[1]), int(match[2]), int(match[3]), match[4]) if match else None
