"""``asyncckpt doctor``: whether this machine and a root can do what a training will ask of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import click

from asyncckpt.cli.checks import Check
from asyncckpt.cli.doctor_machine import machine
from asyncckpt.cli.doctor_store import store
from asyncckpt.cli.exits import Exit
from asyncckpt.cli.output import print_json, print_line
from asyncckpt.cli.select import target
from asyncckpt.cli.status import StatusLine
from asyncckpt.storage.stopped import unheld

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


@click.command()
@click.argument("root", required=False)
@click.option("--read-only", is_flag=True, help="Write nothing anywhere: what only writing tells is left out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(root: str | None, read_only: bool, as_json: bool) -> None:
    """Check this machine, and ROOT, for what a training will need; run it where the training will run.

    Each line is a name, a verdict and a sentence: ok; note, for what is slower or weaker than it could be, or cannot be
    told; problem, for what will fail. The status is 1 where there is a problem.

    \b
    memory, memlock     what the process may take (cgroups too), and page-lock for copies from devices
    shared memory, shm  staging memory that a worker process shares; /dev/shm, for data loaders
    signals             those of a preemption that are ignored or blocked here
    metrics             the port that the environment asks for
    extras              optional libraries that are not installed
    worker              how long a worker process takes to be ready
    store, file system  whether ROOT can be read, and what is there
    creates             whether two trainings in ROOT exclude each other, and how
    room                whether one more checkpoint like the latest fits
    bandwidth, direct I/O, ...   16 MiB are written, read and removed; whatever was done a slower way
    clock               this machine's against the store's

    Beside a training it changes nothing of the run. What it writes is ROOT/user/probe-<random>, which it removes, and
    which the next start removes if it was killed.
    """
    if root is not None and target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @")
    as_here = partial(click.get_current_context().scope, cleanup=False)  # how it is printed
    checks = unheld(_all(root, read_only=read_only, shows=not as_json), "asyncckpt-command", as_here)
    is_well = all(check.state != "problem" for check in checks)
    if as_json:
        print_json({"root": root, "ok": is_well, "checks": [check.json() for check in checks]})
    click.get_current_context().exit(Exit.OK if is_well else Exit.DAMAGED)


async def _all(root: str | None, *, read_only: bool, shows: bool) -> list[Check]:
    """Every check, each shown when it is there."""
    status, found = StatusLine(), []
    try:
        status.show("checking")
        async for check in _checks(root, read_only=read_only):
            found.append(check)
            if shows:
                status.clear()
                print_line(check.line, _COLOURS[check.state])
            status.show(f"checking what comes after {check.name}")
    finally:
        status.clear()
    return found


async def _checks(root: str | None, *, read_only: bool) -> AsyncIterator[Check]:
    for check in machine():
        yield check
    async for check in store(root, read_only=read_only):
        yield check
