"""Verdict: what a look at the bytes of one checkpoint found out."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.cli.exits import Exit, reason
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError, CheckpointNotFoundError
from asyncckpt.fetching.reading import verify
from asyncckpt.format.contents import Contents, Extent
from asyncckpt.format.record import Checkpoint
from asyncckpt.inspection.following import unless_removed

State: TypeAlias = Literal["ok", "damaged", "removed", "unread"]
"""``removed``: by retention, while it was checked. ``unread``: the store failed, so nobody knows."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one check; a lost record is named by its slot, and nobody knows its step."""

    id: str
    step: int | None
    state: State
    reason: str | None = None
    kind: str | None = None
    """Of damage, in one word, see `CheckpointCorruptError`."""

    @property
    def line(self) -> str:
        name = self.id if self.step is None else f"{self.id}  step {self.step}"
        return f"{name}  {self.state}: {self.reason}" if self.reason else f"{name}  {self.state}"

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"id": self.id, "step": self.step, "state": self.state, "reason": self.reason}


def verdict(checkpoint: Checkpoint, state: State, error: AsyncCkptError | None = None) -> Verdict:
    """The verdict on a checkpoint whose record is there."""
    kind = error.kind if isinstance(error, CheckpointCorruptError) else None
    return Verdict(f"{checkpoint.seq:08d}", checkpoint.step, state, reason(error) if error else None, kind)


async def judge(
    catalog: Catalog,
    checkpoint: Checkpoint,
    *,
    full: bool,
    choose: Callable[[Contents], Container[Extent]] | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Verdict:
    """Whether `checkpoint` is whole, by what `verify` looks at.

    Raises `CheckpointNotFoundError` if retention removed it meanwhile. `progress` is told how many bytes more were
    checked.
    """
    try:
        async with unless_removed(catalog, checkpoint):
            await verify(catalog, checkpoint, full=full, choose=choose, progress=progress)
    except CheckpointNotFoundError:
        raise
    except AsyncCkptError as error:
        return verdict(checkpoint, "damaged" if isinstance(error, CheckpointCorruptError) else "unread", error)
    return verdict(checkpoint, "ok")


def exit_for_all(verdicts: Iterable[Verdict]) -> Exit:
    """The worst that was found; checkpoints that were all removed leave nothing to speak of."""
    states = {verdict.state for verdict in verdicts}
    if "damaged" in states:
        return Exit.DAMAGED
    if "unread" in states:
        return Exit.UNREADABLE
    return Exit.OK if "ok" in states else Exit.ABSENT
