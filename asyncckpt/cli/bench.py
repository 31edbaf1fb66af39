"""``asyncckpt bench``: what a training will get of this machine and of a root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing

import click

from asyncckpt import allowance
from asyncckpt.cli.amount import amount
from asyncckpt.cli.bench_measures import Bench, Measured
from asyncckpt.cli.output import print_json, print_line
from asyncckpt.cli.scratch import scratch
from asyncckpt.cli.select import reading, target
from asyncckpt.cli.status import StatusLine
from asyncckpt.format import names
from asyncckpt.sizes import size
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.worker.room import free

_IN_MEMORY, _IN_STORE = 2.5, 3
"""How many times --size is needed."""


@click.command()
@click.argument("root", required=False)
@click.option(
    "--size", "nbytes", metavar="SIZE", callback=amount, default="256MiB", show_default=True, help="Measure with it."
)
@click.option(
    "--state", metavar="SIZE", callback=amount, default="10GiB", show_default=True, help="What is saved in the end."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(root: str | None, nbytes: int, state: int, as_json: bool) -> None:
    """Measure this machine and ROOT, and tell how long a state of --state bytes would take to be saved.

    \b
    copy          bytes in memory, as a snapshot on the CPU is one; without ROOT only this
    write, read   one object of --size
    small, list   what each request takes, however little it is about
    save          from a staged snapshot of --size until it is durable, by the writer of all trainings
    check         all of that read again, each digest checked: what a resume takes at least
    state         what this means for --state

    It writes at most three times --size below ROOT/user/probe-<random>, and removes it, after Ctrl-C too; were it
    killed, the next start does. No checkpoint of ROOT is touched, but a training that saves there meanwhile shares the
    store with it; one that begins meanwhile sweeps it away. A larger --size comes nearer to what a large state gets.
    """
    if root is not None and target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @")
    _check_memory(nbytes)
    if root is not None:
        reading(root, lambda catalog: catalog.storage.head(names.RUN))  # nobody waits for a disk that hangs
    found = asyncio.run(_all(root, nbytes, state, shows=not as_json))
    if as_json:
        notes = [measured.json for measured in found if measured.name == "note"]
        values = {measured.name: measured.json for measured in found if measured.name != "note"}
        print_json({"root": root, **values, "notes": notes})


async def _all(root: str | None, nbytes: int, state: int, *, shows: bool) -> list[Measured]:
    """Everything, each shown when it is there."""
    found = []
    with closing(StatusLine()) as status:
        async with aclosing(_measured(root, Bench(nbytes, status.show), nbytes, state)) as measures:
            async for measured in measures:
                found.append(measured)
                status.clear()
                if shows:
                    print_line(measured.line, "yellow" if measured.name == "note" else "reset")
    return found


async def _measured(root: str | None, bench: Bench, nbytes: int, state: int) -> AsyncGenerator[Measured, None]:
    storage = None if root is None else from_url(root)
    try:
        if storage is not None:
            _check_room(storage, nbytes)
        yield bench.memory()
        if storage is not None:
            async with scratch(storage) as url, aclosing(bench.store(url)) as measures:
                async for measured in measures:
                    yield measured
        yield bench.forecast(state)
    finally:
        if storage is not None:
            await storage.aclose()


def _check_memory(nbytes: int) -> None:
    left = allowance.memory()
    if left is not None and left.free < nbytes * _IN_MEMORY:
        what = f"{_IN_MEMORY} times that in memory, and {left.limit} has {size(left.free)} left"
        raise click.UsageError(f"--size {size(nbytes)} takes {what}: give a smaller one")


def _check_room(storage: Storage, nbytes: int) -> None:
    left = free(storage)
    if left is not None and left < nbytes * _IN_STORE:
        what = f"{_IN_STORE} times that on the disk of {storage.url}, which has {size(left)} free"
        raise click.UsageError(f"--size {size(nbytes)} takes {what}: give a smaller one")
