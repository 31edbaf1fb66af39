"""Prune plan: what ``prune --json`` prints, and what ``prune --apply`` takes of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from asyncckpt.checkpoints.listing import Listing
from asyncckpt.inspection.schema import SCHEMA
from asyncckpt.retention import PrunePlan


@dataclass(frozen=True, slots=True)
class WrittenPlan:
    """What somebody has found right to go of the run with that id: by sequence number, and why."""

    run: str | None
    removed: Mapping[int, str]
    damaged: frozenset[int]
    """Of those, what was known to be damaged then."""

    def agreed(self, run: str | None, listing: Listing) -> dict[int, str]:
        """What goes of that `run`, and why; tells what is not in its `listing` any more.

        Raises `click.UsageError` for another run, whose checkpoints have the same numbers.
        """
        if self.run != run:
            raise click.UsageError("the plan is of another run")
        gone = len(self.removed.keys() - {checkpoint.seq for checkpoint in listing.checkpoints})
        if gone:
            click.echo(f"{gone} of {len(self.removed)} in the plan are not listed any more", err=True)
        return dict(self.removed)


def document(
    root: str, run: str | None, planned: PrunePlan, damaged: Collection[int], done: str | None
) -> dict[str, Any]:
    """The plan as one JSON object."""
    return {
        "root": root,
        "run": run,
        "kept": [
            {"id": f"{kept.seq:08d}", "seq": kept.seq, "step": kept.step, "reasons": list(kept.reasons)}
            for kept in planned.kept
        ],
        "removed": [
            {
                "id": f"{gone.seq:08d}",
                "seq": gone.seq,
                "step": gone.step,
                "reason": gone.reason,
                "damaged": gone.seq in damaged,
            }
            for gone in planned.removed
        ],
        "freed": planned.freed,
        "done": done,
    }


def written(path: Path) -> WrittenPlan:
    """The plan in `path`; raises `click.UsageError` for what is none."""
    try:
        said = json.loads(path.read_bytes())
        if said["schema"] != SCHEMA:
            raise click.UsageError(f"{path} is of schema {said['schema']!r}, and this reads {SCHEMA}")
        rows = [(int(row["seq"]), str(row["reason"]), row["damaged"] is True) for row in said["removed"]]
        return WrittenPlan(
            said["run"],
            {seq: reason for seq, reason, _ in rows},
            frozenset(seq for seq, _, is_damaged in rows if is_damaged),
        )
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is no plan that prune --json has printed: {error!r}") from None
