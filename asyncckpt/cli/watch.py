"""``asyncckpt watch``: checkpoints as they come and go, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.cli.exits import Exit, reason
from asyncckpt.cli.output import json_line
from asyncckpt.cli.select import acting, target
from asyncckpt.cli.watching import Change, Watched
from asyncckpt.errors import AsyncCkptError
from asyncckpt.storage.base import Opening

NEAR, FAR = 1.0, 15.0
"""Seconds between two looks: at a folder, and at a store that is asked over a network."""

Show = Callable[[Watched, Sequence[Change]], None]
"""Told what has changed since the last look."""


@click.command()
@click.argument("root")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), metavar="SECONDS",
    help=f"Between two looks; otherwise {NEAR:g} at a folder and {FAR:g} at a store over a network.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on a line for each change.")
def watch(root: str, interval: float | None, as_json: bool) -> None:
    """Show the checkpoints of ROOT as they come and go, until Ctrl-C, which is no failure.

    On a terminal that is a table of the newest, with their ages, their sizes, the seconds that each took from the save
    call to its commit, and those since the one before. Elsewhere, and with --json, it is a line for each change:
    watching (what is there at first), saved, removed, changed (a mark, the best, found damaged), opened, closed and
    rolled_back (what its writer did), lost (a commit record), unreachable and reachable.

    Nothing is written, and no training is disturbed. A look at a store costs a few small requests, and one more for
    each checkpoint that is new.
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @, or use show")

    async def act(catalog: Catalog) -> None:
        pause = interval or (NEAR if isinstance(catalog.storage, Opening) else FAR)
        watched = Watched(catalog)
        if not as_json and sys.stdout.isatty() and (screen := _screen(root)) is not None:
            with screen as shown:
                await _follow(watched, pause, shown.show, tick=shown.tick)
        await _follow(watched, pause, _print_json if as_json else _print)

    try:
        acting(root, act)
    except KeyboardInterrupt:
        click.get_current_context().exit(Exit.OK)


def _screen(root: str) -> Any:
    try:
        from asyncckpt.cli.watch_screen import Screen
    except ModuleNotFoundError:  # rich
        return None
    return Screen(root)


async def _follow(watched: Watched, pause: float, show: Show, tick: Callable[[], None] = lambda: None) -> None:
    """Look again and again; raises only what the first look raises."""
    show(watched, await watched.look())
    while True:
        left = pause
        while left > 0:
            await asyncio.sleep(min(left, NEAR))
            left -= NEAR
            tick()
        try:
            changes = await watched.look()
        except AsyncCkptError as error:
            changes = watched.failed(reason(error))
        show(watched, changes)


def _print_json(watched: Watched, changes: Sequence[Change]) -> None:
    for change in changes:
        click.echo(json_line(change.json()))


def _print(watched: Watched, changes: Sequence[Change]) -> None:
    for change in changes:
        click.echo(change.shown)
