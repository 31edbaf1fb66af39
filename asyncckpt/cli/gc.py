"""``asyncckpt gc``: what no checkpoint needs, as the next start would sweep it, and its removal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.cli.counted import counted
from asyncckpt.cli.lost import lost_records
from asyncckpt.cli.nothing import nothing_in
from asyncckpt.cli.output import print_json, print_table
from asyncckpt.cli.printable import printable
from asyncckpt.cli.select import acting, target
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.events import Event, Leftover, Listeners, Swept
from asyncckpt.format import names
from asyncckpt.format.record import Record
from asyncckpt.sizes import size
from asyncckpt.worker.commitlog.offline import may_be_held, tidy
from asyncckpt.worker.commitlog.sweep import Outside, SweepPlan, carry_out, plan_sweep, seen_outside


@click.command()
@click.argument("root")
@click.option("--yes", is_flag=True, help="Remove it; without this nothing is removed.")
@click.option(
    "--alone",
    is_flag=True,
    help="No training begins now, and ROOT is its only tier: all that is left goes.",
)
@click.option("--take-over", is_flag=True, help="Take the run at once: a training that holds it is stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def gc(root: str, yes: bool, alone: bool, take_over: bool, as_json: bool) -> None:
    """Show what in ROOT no checkpoint needs, and why; with --yes, remove it.

    That is what saves left which came to no commit, what was removed and not deleted, records that are neither listed
    nor the newest, marks of checkpoints that are gone, and unfinished uploads of this run: what the next start would
    sweep. Names that are not this project's are told, and stay.

    A training may be saving meanwhile, or begin, and is not disturbed: only what those before the last one left goes,
    and nothing that is newer than all that is listed, which may be on its way from another tier. Where the run is
    closed, none begins now, and ROOT is no mirror and has no local tier, --alone removes the rest; where the last
    training is dead, --take-over does.
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @")

    async def act(catalog: Catalog) -> tuple[Plan, str | None] | None:
        plan = await _planned(catalog, alone=alone, take_over=take_over)
        if plan is None:
            return None
        if not as_json:
            plan.show()
        return plan, await plan.carry_out(take_over=take_over) if yes and plan.is_due else None

    found = acting(root, act)
    if found is None:
        click.echo(nothing_in(root, "run"), err=True)
    plan, done = found or (None, None)
    if plan is not None and plan.is_due and not yes:
        click.echo("nothing was removed: --yes removes it", err=True)
    if as_json:
        print_json({"root": root, **(EMPTY if plan is None else plan.json()), "done": done})
    elif done is not None:
        click.echo(done)


EMPTY: dict[str, Any] = {"held": False, "remove": [], "bytes": 0, "unknown": [], "hidden": None}
"""The plan of a root without a run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes, seen from outside of the run."""

    view: Outside
    swept: SweepPlan

    @property
    def is_due(self) -> bool:
        """Whether anything goes."""
        return bool(self.swept.keys or self.swept.uploads)

    @property
    def bytes(self) -> int:
        """As far as it is known."""
        return sum(self.swept.lengths.values())

    async def carry_out(self, *, take_over: bool) -> str:
        """Remove it; says what was done. At once after the look: nobody has to be asked whether it still holds."""
        storage = self.view.catalog.storage
        if take_over and may_be_held(self.view.head):
            told = _Told()
            await tidy(storage, Listeners([told]), SYSTEM_CLOCK)
            return f"took the run over from {self.view.head.writer.shown} and removed {_gone(told.removed)}"
        return f"removed {_gone(await carry_out(self.swept, storage))}, freed {size(self.bytes)}"

    def show(self) -> None:
        """As a table, a line for each folder; what stays to standard error."""
        rows: dict[tuple[str, str], list[int]] = {}
        for key, length, why in self._items():
            found = rows.setdefault((key.rpartition("/")[0] or key, why), [0, 0])
            found[0], found[1] = found[0] + 1, found[1] + (length or 0)
        table = [[what, str(count), size(length), why] for (what, why), (count, length) in rows.items()]
        if table:
            print_table(["WHAT", "OBJECTS", "SIZE", "WHY"], table, right=("OBJECTS", "SIZE"))
            uploads = f" and {counted(len(self.swept.uploads), 'unfinished upload')}" if self.swept.uploads else ""
            click.echo(f"{counted(len(self.swept.keys), 'object')}{uploads} to remove, {size(self.bytes)} to free")
        else:
            click.echo("nothing to remove")
        for line in self._stays():
            click.echo(printable(line), err=True)

    def _items(self) -> Iterator[tuple[str, int | None, str]]:
        newest = max((checkpoint.seq for checkpoint in self.view.listed), default=0)
        for key in self.swept.keys:
            yield key, self.swept.lengths.get(key), _why(key, newest)
        for upload in self.swept.uploads:
            yield upload.key.rstrip("/"), None, "an empty folder" if upload.key.endswith("/") else "an unfinished put"

    def _stays(self) -> Iterator[str]:
        if self.view.lost:
            yield f"{lost_records(self.view.lost)}, and may be all that names good data: data stays"
        if not self.view.is_alone:
            yield _who_may(self.view.head)
        for what in self.swept.unknown:
            yield f"not ours to place, and stays: {what}"
        if self.swept.hidden is not None:
            yield f"unfinished uploads could not be looked for: {self.swept.hidden}"

    def json(self) -> dict[str, Any]:
        """As one JSON object; ``bytes`` is null where nobody knows."""
        return {
            "held": may_be_held(self.view.head),
            "remove": [{"key": key, "bytes": length, "why": why} for key, length, why in self._items()],
            "bytes": self.bytes,
            "unknown": list(self.swept.unknown),
            "hidden": None if self.swept.hidden is None else str(self.swept.hidden),
        }


def _gone(number: int) -> str:
    return counted(number, "object or upload", "objects and uploads")


def _why(key: str, newest: int) -> str:
    owner = names.directory_of(key)
    if owner is not None:
        left = f"step {owner.step} of incarnation {owner.inc}"
        is_later = owner.seq > newest
        return f"{left}: its save came to no commit" if is_later else f"{left}: no listed checkpoint needs it"
    if names.is_probe(key):
        return "left by a doctor or a bench that was killed"
    if key.startswith(names.COMMITS):
        return "records that list nothing any more"
    return "said of a checkpoint that is gone"


async def _planned(catalog: Catalog, *, alone: bool, take_over: bool) -> Plan | None:
    listing = await catalog.listing()
    if (head := listing.head) is None:
        return None
    # By default somebody may be at work, closed as the run is: a training that begins right now, from another tier of
    # the run perhaps, puts here what its record will need before that says so.
    is_alone = take_over or (alone and not may_be_held(head))
    view = await seen_outside(catalog, listing, head, is_alone=is_alone)
    return Plan(view, await plan_sweep(view, is_supplied=not is_alone))


class _Told:
    """What a sweep said of itself."""

    def __init__(self) -> None:
        self.removed = 0

    def on_event(self, event: Event) -> None:
        if isinstance(event, Swept):
            self.removed += event.objects
        elif isinstance(event, Leftover):
            click.echo(f"left to the next start: {printable(event.what)}: {printable(str(event.error))}", err=True)


def _who_may(head: Record) -> str:
    """Who may be at work, so that what is of the last incarnation stays."""
    if may_be_held(head):
        return f"{head.writer.shown} may be saving here: what belongs to it stays; if it is dead, --take-over"
    return (
        f"what is left of incarnation {head.inc}, the last, stays, and what another tier may be bringing; "
        "if no training begins now, and this is the run's only tier, --alone"
    )
