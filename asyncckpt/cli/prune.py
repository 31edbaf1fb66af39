"""``asyncckpt prune``: what a retention policy would remove, and, once that is confirmed, its removal."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.checkpoints.marking import author
from asyncckpt.cli.nothing import nothing_in
from asyncckpt.cli.output import age, print_json, print_table
from asyncckpt.cli.printable import printable
from asyncckpt.cli.select import reading, target
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.events import Event, Leftover, Listeners
from asyncckpt.retention import Monitor, PrunePlan, RetentionPolicy
from asyncckpt.sizes import size
from asyncckpt.worker.commitlog.keeping import Keeping
from asyncckpt.worker.commitlog.offline import ask, drop, may_be_held

RULES = {
    "last": "the N most recently saved",
    "best": "the N best by the monitored metric",
    "every_steps": "those whose step is a multiple of N",
    "every_epochs": "the last of each epoch that is a multiple of N",
    "hourly": "the last of each of the N latest hours in which something was saved",
    "daily": "the last of each of the N latest days",
    "weekly": "the last of each of the N latest weeks",
    "monthly": "the last of each of the N latest months",
    "yearly": "the last of each of the N latest years",
}


def _keep_options(command: Any) -> Any:
    for rule in reversed(RULES):
        name = f"--keep-{rule.replace('_', '-')}"
        command = click.option(name, rule, type=click.IntRange(min=1), metavar="N", help=f"Keep {RULES[rule]}.")(
            command
        )
    return command


@click.command()
@click.argument("root")
@_keep_options
@click.option("--damaged", is_flag=True, help="Remove what was found damaged, too: else it stays, as evidence.")
@click.option("--monitor", metavar="NAME:min|max", help="What best means; otherwise what the training said.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--take-over", is_flag=True, help="Take the run at once: a training that holds it is stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def prune(
    root: str,
    damaged: bool,
    monitor: str | None,
    dry_run: bool,
    yes: bool,
    take_over: bool,
    as_json: bool,
    **rules: int | None,
) -> None:
    """Remove the checkpoints of ROOT that no rule keeps; any rule that wants one keeps it.

    The latest, the best, pinned and tagged ones always stay, and so does what was found damaged, which counts in no
    rule. Where a training may be running it is asked to remove them with its next save.
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @")
    policy = RetentionPolicy(**rules)
    if not (dict(policy.rules()) or damaged):
        raise click.UsageError("say what to keep, for example --keep-last 3")
    judge = None if monitor is None else _monitor(monitor)

    async def look(catalog: Catalog) -> tuple[Listing, PrunePlan]:
        listing = await catalog.listing()
        if policy.best is not None and (judge or listing.monitor) is None:
            raise click.UsageError("--keep-best needs --monitor NAME:min or NAME:max: the training named no metric")
        keeping = Keeping(catalog.storage, policy, judge or listing.monitor, Listeners(()))
        given_up = {info.seq: "damaged" for info in listing.infos() if damaged and info.damaged}
        return listing, await keeping.preview(listing, given_up=given_up)

    listing, planned = reading(root, look)
    is_due = bool(planned.removed) and not dry_run
    if not as_json:
        _print(root, listing, planned)
    elif is_due and not yes:  # nobody can say yes to what is not shown
        with redirect_stdout(sys.stderr):
            _print(root, listing, planned)
    done = None
    if is_due and _confirmed(planned, yes):
        done = _carry_out(root, listing, planned, judge, take_over)
    elif is_due:
        click.echo("nothing was removed", err=True)
    if as_json:
        print_json(_json(root, planned, done))
    elif done is not None:
        click.echo(done)


def _monitor(text: str) -> Monitor:
    name, _, mode = text.rpartition(":")
    if not name or mode not in ("min", "max"):
        raise click.UsageError(f"--monitor {text}: use NAME:min or NAME:max")
    return name, "min" if mode == "min" else "max"


def _confirmed(planned: PrunePlan, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to ask: use --yes to remove them, or --dry-run")
    return click.confirm(f"remove {len(planned.removed)} checkpoints?", err=True)


def _carry_out(root: str, listing: Listing, planned: PrunePlan, judge: Monitor | None, take_over: bool) -> str:
    """Remove, or ask for it; says what was done."""
    given_up = {info.seq for info in listing.infos() if info.damaged}  # in the plan only if that was wanted
    unwanted = {removal.seq: f"pruned by {author()}: {removal.reason}" for removal in planned.removed}
    head = listing.head
    if head is not None and may_be_held(head) and not take_over:

        async def request(catalog: Catalog) -> None:
            await ask(catalog.storage, unwanted, author(), SYSTEM_CLOCK, given_up & unwanted.keys())

        reading(root, request)
        return f"asked {head.writer.shown} to remove {len(unwanted)} with its next save; if it is dead, use --take-over"

    async def remove(catalog: Catalog) -> PrunePlan:
        # Somebody may have thought about it for long: a training that has started since is not stopped.
        on = None if take_over else head
        told = Listeners([_Leftovers()])
        return await drop(
            catalog.storage, unwanted, told, SYSTEM_CLOCK, monitor=judge, on=on, given_up=given_up & unwanted.keys()
        )

    removed = reading(root, remove)
    return f"removed {len(removed.removed)}, freed {size(removed.freed)}"


class _Leftovers:
    """Tells what went wrong once the removal itself had gone right."""

    def on_event(self, event: Event) -> None:
        if isinstance(event, Leftover):
            click.echo(f"left to the next start: {printable(event.what)}: {printable(str(event.error))}", err=True)


def _print(root: str, listing: Listing, planned: PrunePlan) -> None:
    created = {info.seq: age(info.created) for info in listing.infos()}
    reasons = {kept.seq: ", ".join(kept.reasons) for kept in planned.kept}
    reasons |= {gone.seq: gone.reason for gone in planned.removed}
    steps = {kept.seq: kept.step for kept in planned.kept} | {gone.seq: gone.step for gone in planned.removed}
    leaving = {gone.seq for gone in planned.removed}
    rows = [[f"slot {slot}", "", "", "keep", "damaged: its record is lost"] for slot in listing.lost]
    rows += [
        [f"{seq:08d}", str(steps[seq]), created[seq], "remove" if seq in leaving else "keep", reasons[seq]]
        for seq in sorted(steps)
    ]
    if not rows:
        click.echo(nothing_in(root), err=True)
        return
    print_table(["ID", "STEP", "AGE", "PLAN", "WHY"], rows, right=("STEP", "AGE"))
    click.echo(f"{len(planned.removed)} of {len(rows)} to remove, {size(planned.freed)} to free")


def _json(root: str, planned: PrunePlan, done: str | None) -> dict[str, Any]:
    return {
        "root": root,
        "kept": [
            {"id": f"{kept.seq:08d}", "seq": kept.seq, "step": kept.step, "reasons": list(kept.reasons)}
            for kept in planned.kept
        ],
        "removed": [
            {"id": f"{gone.seq:08d}", "seq": gone.seq, "step": gone.step, "reason": gone.reason}
            for gone in planned.removed
        ],
        "freed": planned.freed,
        "done": done,
    }
