"""Record: the small JSON object that commits. The chain of records is the commit log.

A record is created exclusively in the slot after its writer's last one. It lists, as slots, every checkpoint
that is live from then on: the catalog is the live set of the newest record (the head), so that a removal is
part of a commit and a record that is merely present means nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.sealed import Json, seal, sealed_digest, unseal
from asyncckpt.format.slots import Slots

Kind: TypeAlias = Literal["open", "checkpoint", "amend", "rollback", "prune", "close"]
_KINDS = ("open", "checkpoint", "amend", "rollback", "prune", "close")
_TELLING = ("checkpoint", "amend")
"""Those that tell of a checkpoint: a new one, or a listed one of which more is known now."""


@dataclass(frozen=True, slots=True)
class WriterId:
    """One session of ownership of a run. Only `nonce` means anything; the rest is for people."""

    nonce: str
    host: str
    pid: int
    started: int
    """Microseconds since the epoch."""

    @property
    def shown(self) -> str:
        """Who that is, for people."""
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object by key, length in bytes and digest."""

    key: str
    length: int
    digest: str


@dataclass(frozen=True, slots=True)
class PackUse:
    """A pack that a checkpoint names, its length, and how many of its bytes the checkpoint uses."""

    key: str
    length: int
    live: int


RULES = ("policy", "replaced", "asked", "overwritten")
"""What drops checkpoints: no rule of the policy keeps it, a later save of its step, a request, a new training."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A checkpoint that a record dropped from the catalog, and the retention reason."""

    seq: int
    step: int
    reason: str
    """In words."""
    rule: str = ""
    """One of `RULES`; the first records do not say."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a record of kind ``checkpoint`` or ``amend`` says about its checkpoint."""

    seq: int
    step: int
    epoch: int | None
    world: int
    parent: int | None
    """Sequence number of the checkpoint that the training continued from."""
    created: int
    """Microseconds since the epoch at the save call."""
    metrics: Mapping[str, float]
    manifest: ObjectRef
    packs: tuple[PackUse, ...]
    code_version: str | None = None
    monitor: tuple[str, str] | None = None
    """The metric that decides which checkpoint is best, and "min" or "max"."""
    partial: tuple[str, ...] = ()
    """The parts of the state that it lacks, since there was no time for them; a complete one lacks none."""
    message: str | None = None
    """What it says of itself, for people."""

    @property
    def folder(self) -> str:
        """The key of the folder that everything of its own lies in."""
        return self.manifest.key.rsplit("/", 1)[0]

    @property
    def size(self) -> int:
        """Bytes of state: what its packs hold for it, shared ones included."""
        return sum(pack.live for pack in self.packs)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the commit log."""

    kind: Kind
    slot: int
    inc: int
    writer: WriterId
    previous: tuple[int, str] | None
    """Slot and digest of the record before it, which may be gone by now."""
    live: Slots
    """Slots of every checkpoint that is listed once this record is the head."""
    latest: int | None
    latest_inc: int
    next_seq: int
    latest_slot: int | None = None
    """The slot of the latest, and of the best, so that nobody has to read all records for one of them."""
    best_slot: int | None = None
    checkpoint: Checkpoint | None = None
    removed: tuple[Removal, ...] = ()
    acknowledged: tuple[int, ...] = ()
    """Sequence numbers of listed checkpoints whose pins and tags the writer saw before it wrote this."""
    digest: str = field(default="", compare=False)
    """Digest of the encoded record; filled by `decode`."""

    def encode(self) -> bytes:
        """The record's one encoding."""
        fields: dict[str, Json] = {
            "kind": self.kind,
            "slot": self.slot,
            "inc": self.inc,
            "writer": _writer_json(self.writer),
            "previous": list(self.previous) if self.previous else None,
            "live": [[first, last] for first, last in self.live.ranges],
            "latest": self.latest,
            "latest_inc": self.latest_inc,
            "next_seq": self.next_seq,
            "latest_slot": self.latest_slot,
            "best_slot": self.best_slot,
            "removed": [{"seq": r.seq, "step": r.step, "reason": r.reason, "rule": r.rule} for r in self.removed],
            "acknowledged": list(self.acknowledged),
        }
        if self.checkpoint is not None:
            fields |= checkpoint_json(self.checkpoint)
        return seal(fields)


def decode(data: bytes | memoryview, what: str) -> Record:
    """Decode and check a record; raises `CheckpointCorruptError` or `UnsupportedFormat` naming `what`."""
    raw = bytes(data)
    fields = unseal(raw, what)
    try:
        return _record(fields, sealed_digest(raw))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorruptError(f"{what} lacks or misuses a field: {error!r}") from error


def _writer_json(writer: WriterId) -> Json:
    return {"nonce": writer.nonce, "host": writer.host, "pid": writer.pid, "started": writer.started}


def checkpoint_json(c: Checkpoint) -> dict[str, Json]:
    """A checkpoint as JSON, as records hold it."""
    fields: dict[str, Json] = {
        "seq": c.seq,
        "step": c.step,
        "epoch": c.epoch,
        "world": c.world,
        "parent": c.parent,
        "created": c.created,
        # repr round-trips every float; canonical JSON has no fractions and no NaN.
        "metrics": {name: repr(float(value)) for name, value in c.metrics.items()},
        "manifest": {"key": c.manifest.key, "length": c.manifest.length, "digest": c.manifest.digest},
        "packs": [{"key": p.key, "length": p.length, "live": p.live} for p in c.packs],
        "code_version": c.code_version,
        "monitor": list(c.monitor) if c.monitor else None,
    }
    fields |= {} if c.message is None else {"message": c.message}
    return fields | ({"partial": list(c.partial)} if c.partial else {})


_writer = functools.lru_cache(maxsize=64)(WriterId)
"""Thousands of records have one writer."""


def _record(fields: dict[str, Any], digest: str) -> Record:
    kind = fields["kind"]
    if kind not in _KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    writer = fields["writer"]
    previous = fields["previous"]
    return Record(
        kind=cast(Kind, kind),
        slot=int(fields["slot"]),
        inc=int(fields["inc"]),
        writer=_writer(writer["nonce"], writer["host"], writer["pid"], writer["started"]),
        previous=(previous[0], previous[1]) if previous else None,
        live=Slots(tuple((int(first), int(last)) for first, last in fields["live"])),
        latest=fields["latest"],
        latest_inc=int(fields["latest_inc"]),
        next_seq=int(fields["next_seq"]),
        latest_slot=fields.get("latest_slot"),  # the first records had neither, and acknowledged nothing
        best_slot=fields.get("best_slot"),
        checkpoint=checkpoint_of(fields) if kind in _TELLING else None,
        removed=tuple(Removal(r["seq"], r["step"], r["reason"], r.get("rule", "")) for r in fields["removed"]),
        acknowledged=tuple(map(int, fields.get("acknowledged", ()))),
        digest=digest,
    )


def checkpoint_of(fields: Mapping[str, Any]) -> Checkpoint:
    """The inverse of `checkpoint_json`; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    manifest, monitor = fields["manifest"], fields["monitor"]
    return Checkpoint(
        seq=int(fields["seq"]),
        step=int(fields["step"]),
        epoch=fields["epoch"],
        world=int(fields["world"]),
        parent=fields["parent"],
        created=int(fields["created"]),
        metrics={name: float(text) for name, text in fields["metrics"].items()},
        manifest=ObjectRef(manifest["key"], manifest["length"], manifest["digest"]),
        packs=tuple(PackUse(p["key"], p["length"], p["live"]) for p in fields["packs"]),
        code_version=fields["code_version"],
        monitor=(monitor[0], monitor[1]) if monitor else None,
        partial=tuple(map(str, fields.get("partial", ()))),
        message=None if fields.get("message") is None else str(fields["message"]),
    )
