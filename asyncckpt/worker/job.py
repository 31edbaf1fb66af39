"""Job: one save as plain data, so that another process could carry it out from the same bytes.

The bytes are in an arena that already is the image of the packs; the job says what lies where in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from asyncckpt.format.contents import Alias, Path
from asyncckpt.format.record import Record
from asyncckpt.format.sealed import Json
from asyncckpt.format.shard import PackedTensor


@dataclass(frozen=True, slots=True)
class PlannedPack:
    """One pack in the arena: where it starts, and the lengths of its header and of the whole, in bytes."""

    start: int
    header: int
    length: int


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor in a planned pack: `offset` counts from the start of the pack, `packed` is how packs name it."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    pack: int
    offset: int
    packed: PackedTensor

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes


@dataclass(frozen=True, slots=True)
class Layout:
    """What lies where in an arena; shared by all saves between two changes of the state's structure."""

    packs: tuple[PlannedPack, ...]
    tensors: Mapping[Path, PlannedTensor]
    """In file order."""
    aliases: Mapping[Path, Alias]
    size: int
    """Bytes of the arena, a multiple of the page size."""

    bytes: int
    """Bytes of state in it, headers not counted."""


@dataclass(frozen=True, slots=True)
class SaveJob:
    """One save: what to write, and what to say about it in the record."""

    id: str
    ordinal: int
    """Counts this checkpointer's saves; equal on all ranks."""
    step: int
    epoch: int | None
    metrics: Mapping[str, float]
    created: int
    """Microseconds since the epoch at the save call."""
    arena: str
    layout: Layout
    values: Mapping[str, Json] = field(default_factory=dict)
    rank: int = 0
    world: int = 1
    plan: str = ""
    """Fingerprint of the objects that all ranks share: a commit takes only reports with the same."""
    parent: int | None = None
    """Sequence number of the checkpoint that was restored last, where nothing was saved since."""
    partial: tuple[str, ...] = ()
    """The parts of the state that are left out of it."""
    emergency: bool = False
    """Whether the process is about to be killed: what may be done later is left to the next start."""
    local_only: bool = False
    """Whether there is time for the local tier only: the next start brings it home."""
    message: str | None = None
    """What the checkpoint says of itself, for people."""
    passable: bool = False
    """Whether it may stay on the local tier alone, where a newer save is there before its way home has begun."""


@dataclass(frozen=True, slots=True)
class Started:
    """The job left the queue: it can no longer be superseded."""

    seq: int


@dataclass(frozen=True, slots=True)
class Landed:
    """The save is committed in the local tier, and on its way home from there: its arena is not needed any more."""

    record: Record


@dataclass(frozen=True, slots=True)
class Missed:
    """The local tier does not have the save, which is on its way home all the same."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Committed:
    """The save is durable."""

    record: Record


@dataclass(frozen=True, slots=True)
class Rejected:
    """The save failed in `phase`; nothing of it is listed."""

    phase: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Declined:
    """The save of `by_step` took the place of this one, or rank 0 has skipped it where that is None."""

    by_step: int | None
