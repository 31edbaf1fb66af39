"""Checkpoints: one line for each that a run ever had, as far as its catalog and its checkpoint log know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncckpt.metrics_log.rows import Row
from asyncckpt.report.gathering import Gathered


@dataclass(frozen=True)
class Line:
    """One checkpoint, or one save that became none.

    `seconds` are those from the save call to durable, `stalled` those for which the training stood still for it,
    `written` the bytes that were put into the store for it; None where no checkpoint log was kept. `fate` is in words
    why it is there, or why it went.
    """

    id: str
    step: int
    state: str
    fate: str
    epoch: int | None = None
    created: float | None = None
    seconds: float | None = None
    size: int | None = None
    written: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    stalled: float | None = None


def lines(run: Gathered) -> list[Line]:
    """What is listed and what was pruned, in the order of their saves; then lost records, and saves that failed."""
    durable = {row.metrics.get("seq"): row.metrics for row in run.events if row.event == "durable"}
    made = sorted([*_listed(run, durable), *_pruned(run, durable)], key=lambda line: int(line.id))
    return [*made, *_lost(run), *_unsaved(run.events)]


def _listed(run: Gathered, durable: Mapping[Any, Mapping[str, Any]]) -> Iterator[Line]:
    listing = run.listing
    named: dict[int, list[str]] = {}
    for name, one in (("latest", next(iter(listing.candidates()), None)), ("best", listing.best)):
        if one is not None:
            named.setdefault(one.seq, []).append(name)
    for checkpoint in listing.checkpoints:
        seq, told = checkpoint.seq, durable.get(checkpoint.seq, {})
        why = [*named.get(seq, ()), *map(str, listing.marks.get(seq, ()))]
        state, fate = "partial" if checkpoint.partial else "durable", "kept by the policy"
        if why:
            fate = f"kept: {', '.join(why)}"
        if listing.is_damaged(checkpoint):
            found = run.damage.get(seq)
            state = "damaged"
            fate = f"damaged, kept as evidence: {found.reason if found else 'by whom it was found cannot be read'}"
        yield Line(
            f"{seq:08d}", checkpoint.step, state, fate, checkpoint.epoch, checkpoint.created / 1e6,
            told.get("seconds"), checkpoint.size, told.get("written"), checkpoint.metrics, told.get("stalled"),
        )  # fmt: skip


def _lost(run: Gathered) -> Iterator[Line]:
    for slot, error in run.listing.lost.items():
        yield Line(f"slot {slot}", -1, "damaged", f"its commit record is lost: {error}")


def _pruned(run: Gathered, durable: Mapping[Any, Mapping[str, Any]]) -> Iterator[Line]:
    listed = {checkpoint.seq for checkpoint in run.listing.checkpoints}
    for row in run.events:
        seq = row.metrics.get("seq")
        if row.event == "pruned" and isinstance(seq, int) and seq not in listed:
            told = durable.get(seq, {})
            yield Line(
                f"{seq:08d}", row.step, "pruned", str(row.metrics.get("reason", "")),
                None, told.get("created"), told.get("seconds"), told.get("bytes"), told.get("written"),
                stalled=told.get("stalled"),
            )  # fmt: skip


def _unsaved(events: tuple[Row, ...]) -> Iterator[Line]:
    for row in events:
        match row.event:
            case "failed":
                fate = f"{row.metrics.get('phase', '')}: {row.metrics.get('reason', '')}"
            case "superseded":
                fate = f"step {row.metrics.get('by_step')} took its place before it was written"
            case "skipped":
                fate = "both generations were busy"
            case _:
                continue
        yield Line("", row.step, row.event, fate)
