"""``asyncckpt prune``: what a retention policy would remove, and, once that is confirmed, its removal."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.checkpoints.marking import author
from asyncckpt.cli.counted import counted
from asyncckpt.cli.nothing import nothing_in
from asyncckpt.cli.output import age, print_json, print_table
from asyncckpt.cli.printable import printable
from asyncckpt.cli.prune_plan import WrittenPlan, document, written
from asyncckpt.cli.select import acting, reading, target
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
@click.option(
    "--apply",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Remove what a plan of --json says, in place of rules.",
)
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--take-over", is_flag=True, help="Take the run at once: a training that holds it is stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def prune(
    root: str,
    damaged: bool,
    monitor: str | None,
    path: Path | None,
    dry_run: bool,
    yes: bool,
    take_over: bool,
    as_json: bool,
    **rules: int | None,
) -> None:
    """Remove the checkpoints of ROOT that no rule keeps; any rule that wants one keeps it.

    The latest, the best, pinned and tagged ones always stay, and so does what was found damaged, which counts in no
    rule. Where a training may be running it is asked to remove them with its next save.

    To have a plan looked at first, print it with --dry-run --json, and give that file to --apply: of what it says goes
    what is still there, and nothing that has been marked, become the best or been found damaged since.

    \b
    asyncckpt prune s3://bucket/run --keep-last 3 --keep-daily 7 --dry-run --json > plan.json
    asyncckpt prune s3://bucket/run --apply plan.json --yes
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @")
    wanted = _wanted(RetentionPolicy(**rules), None if monitor is None else _monitor(monitor), path, damaged=damaged)
    found = reading(root, wanted.look)
    is_due = bool(found.planned.removed) and not dry_run
    if not as_json:
        _print(root, found)
    elif is_due and not yes:  # nobody can say yes to what is not shown
        with redirect_stdout(sys.stderr):
            _print(root, found)
    done = None
    if is_due and _confirmed(found.planned, yes):
        done = _carry_out(root, found, wanted.judge, take_over)
    elif is_due:
        click.echo("nothing was removed", err=True)
    if as_json:
        print_json(document(root, found.run, found.planned, found.damaged, done))
    elif done is not None:
        click.echo(done)


@dataclass(frozen=True, slots=True)
class Found:
    """The run with that id, what it lists, and what goes of that."""

    run: str | None
    listing: Listing
    planned: PrunePlan

    @property
    def damaged(self) -> set[int]:
        """What was found damaged of it, by sequence number."""
        return {info.seq for info in self.listing.infos() if info.damaged}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to go: what `policy` does not keep, and the `damaged` if they are; or what a plan says."""

    policy: RetentionPolicy
    judge: Monitor | None
    plan: WrittenPlan | None
    damaged: bool

    async def look(self, catalog: Catalog) -> Found:
        """What that is now."""
        run, listing = await catalog.run(), await catalog.listing()
        if self.policy.best is not None and (self.judge or listing.monitor) is None:
            raise click.UsageError("--keep-best needs --monitor NAME:min or NAME:max: the training named no metric")
        found = Found(None if run is None else run.id, listing, PrunePlan((), (), 0))
        keeping = Keeping(catalog.storage, self.policy, self.judge or listing.monitor, Listeners(()))
        if self.plan is None:
            agreed = dict.fromkeys(found.damaged if self.damaged else (), "damaged")
            given_up = frozenset(agreed)
        else:
            agreed, given_up = self.plan.agreed(found.run, listing), self.plan.damaged
        return replace(found, planned=await keeping.preview(listing, agreed=agreed, given_up=given_up))


def _wanted(policy: RetentionPolicy, judge: Monitor | None, path: Path | None, *, damaged: bool) -> Wanted:
    has_rules = bool(dict(policy.rules())) or damaged
    if path is None and not has_rules:
        raise click.UsageError("say what to keep, for example --keep-last 3")
    if path is not None and (has_rules or judge is not None):
        raise click.UsageError("--apply: the plan says what goes: leave out rules, --damaged and --monitor")
    return Wanted(policy, judge, None if path is None else written(path), damaged)


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
    return click.confirm(f"remove {counted(len(planned.removed), 'checkpoint')}?", err=True)


def _carry_out(root: str, found: Found, judge: Monitor | None, take_over: bool) -> str:
    """Remove, or ask for it; says what was done."""
    unwanted = {removal.seq: f"pruned by {author()}: {removal.reason}" for removal in found.planned.removed}
    given_up = found.damaged & unwanted.keys()  # in the plan only if that was wanted
    head = found.listing.head
    if head is not None and may_be_held(head) and not take_over:

        async def request(catalog: Catalog) -> None:
            await ask(catalog.storage, unwanted, author(), SYSTEM_CLOCK, given_up)

        acting(root, request)
        return f"asked {head.writer.shown} to remove {len(unwanted)} with its next save; if it is dead, use --take-over"

    async def remove(catalog: Catalog) -> PrunePlan:
        # Somebody may have thought about it for long: a training that has started since is not stopped.
        on = None if take_over else head
        told = Listeners([_Leftovers()])
        return await drop(catalog.storage, unwanted, told, SYSTEM_CLOCK, monitor=judge, on=on, given_up=given_up)

    removed = acting(root, remove)
    return f"removed {len(removed.removed)}, freed {size(removed.freed)}"


class _Leftovers:
    """Tells what went wrong once the removal itself had gone right."""

    def on_event(self, event: Event) -> None:
        if isinstance(event, Leftover):
            click.echo(f"left to the next start: {printable(event.what)}: {printable(str(event.error))}", err=True)


def _print(root: str, found: Found) -> None:
    listing, planned = found.listing, found.planned
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
