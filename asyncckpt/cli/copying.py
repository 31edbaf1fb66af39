"""Copying from one root to another, for ``cp`` and ``sync``: what is lacking there, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.cli.exits import Exit, reason
from asyncckpt.cli.nothing import nothing_in
from asyncckpt.cli.output import print_json, print_line
from asyncckpt.cli.printable import printable
from asyncckpt.cli.select import Target, acting
from asyncckpt.cli.status import StatusLine
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.events import Event, Leftover, Listeners
from asyncckpt.format.record import Checkpoint
from asyncckpt.sizes import size
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import Bounded
from asyncckpt.storage.changing import bounded_changing
from asyncckpt.worker.copies import Copied, Copies

Choose: TypeAlias = Callable[[Catalog, Listing], Sequence[Checkpoint]]
"""Which of what is listed are wanted; raises `CheckpointNotFoundError`."""


@dataclass(slots=True)
class Outcome:
    """What was wanted, what was there already, and what became of the rest."""

    wanted: Sequence[Checkpoint]
    lacking: Sequence[Checkpoint]
    copied: list[Copied]

    @property
    def status(self) -> Exit:
        """1 where what was to be copied is damaged."""
        if any(found.damage for found in self.copied):
            return Exit.DAMAGED
        return Exit.OK if self.wanted else Exit.ABSENT


def copied_to(source: Target, destination: str, choose: Choose, *, dry_run: bool, as_json: bool) -> None:
    """Copy, tell, and exit: 0 where all is there, 1 where something is damaged, 3 where there is nothing."""

    async def act(catalog: Catalog) -> Outcome:
        target = bounded_changing(from_url(destination))
        try:
            _check_apart(await _place(catalog.storage), await _place(target), destination)
            listing = await catalog.listing()
            wanted = choose(catalog, listing)
            copies = Copies(catalog, target, Listeners([_Told()]), SYSTEM_CLOCK)
            lacking = await copies.lacking(wanted)
            found = Outcome(wanted, lacking, [])
            if lacking and not dry_run:
                await _copy(copies, listing, found, shows=not as_json)
            return found
        finally:
            await target.aclose()

    outcome = acting(source.root, act)
    if as_json:
        print_json({"source": source.root, "destination": destination, **_json(outcome)})
    else:
        _tell(source, destination, outcome, dry_run=dry_run)
    click.get_current_context().exit(outcome.status)


async def _place(storage: Storage) -> str:
    """Where it is, whatever links lead there."""
    if isinstance(storage, Bounded):
        return await storage.blocking("a look at it", partial(os.path.realpath, storage.url))
    return storage.url


def _check_apart(source: str, target: str, said: str) -> None:
    """Refuse a root inside of the other one: whoever looks after one of them, or removes it, has both."""
    one, other = f"{source}/", f"{target}/"
    if one == other:
        raise click.UsageError(f"{said} is where they are: name another root")
    if other.startswith(one):
        raise click.UsageError(f"{said} is inside of the root that they are in: name one beside it")
    if one.startswith(other):
        raise click.UsageError(f"{said} is the folder that the root is in, and would be a run itself: name one in it")


async def _copy(copies: Copies, listing: Listing, found: Outcome, *, shows: bool) -> None:
    status = StatusLine()

    def begin(number: int) -> None:
        if number < len(found.lacking):
            one = found.lacking[number]
            status.show(f"copying {number + 1} of {len(found.lacking)}: step {one.step}, {size(one.size)}")

    try:
        begin(0)
        async with aclosing(copies.copy(listing, found.lacking)) as copied:
            async for one in copied:
                found.copied.append(one)
                status.clear()
                if shows:
                    print_line(_line(one), "red" if one.damage else "green")
                begin(len(found.copied))
    finally:
        status.clear()


def _line(one: Copied) -> str:
    name = f"{one.checkpoint.seq:08d}  step {one.checkpoint.step}"
    if one.damage is not None:
        return f"{name}  damaged, and not copied: {reason(one.damage)}"
    if one.removed:
        return f"{name}  was removed by retention before it was copied"
    return f"{name}  copied, {size(one.written or 0)}"


def _tell(source: Target, destination: str, outcome: Outcome, *, dry_run: bool) -> None:
    if not outcome.wanted:
        click.echo(nothing_in(source.root), err=True)
    elif dry_run:
        for one in outcome.lacking:
            click.echo(f"{one.seq:08d}  step {one.step}  would be copied, {size(one.size)} of state")
    there = len(outcome.wanted) - len(outcome.lacking)
    if there:
        click.echo(f"{there} of {len(outcome.wanted)} not newer than what {printable(destination)} lists", err=True)


def _json(outcome: Outcome) -> dict[str, Any]:
    done = {one.checkpoint.seq: one for one in outcome.copied}

    def row(checkpoint: Checkpoint) -> dict[str, Any]:
        one = done.get(checkpoint.seq)
        state = "lacking" if one is None else "damaged" if one.damage else "removed" if one.removed else "copied"
        why = reason(one.damage) if one is not None and one.damage is not None else None
        written = None if one is None else one.written
        return {
            "id": f"{checkpoint.seq:08d}",
            "step": checkpoint.step,
            "state": state,
            "bytes": written,
            "reason": why,
        }

    return {"ok": outcome.status is Exit.OK, "wanted": len(outcome.wanted), "checkpoints": [*map(row, outcome.lacking)]}


class _Told:
    """Tells what went wrong once a copy itself had gone right."""

    def on_event(self, event: Event) -> None:
        if isinstance(event, Leftover):
            click.echo(f"left over: {printable(event.what)}: {printable(str(event.error))}", err=True)
