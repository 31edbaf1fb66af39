"""``asyncckpt ls``: the checkpoints of a run, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.cli.lost import lost_records
from asyncckpt.cli.nothing import nothing_in
from asyncckpt.cli.output import age, print_json, print_table
from asyncckpt.cli.select import reading, target
from asyncckpt.inspection.summary import Summary, short, summaries
from asyncckpt.sizes import size

if TYPE_CHECKING:
    from asyncckpt.cli.incomplete import Incomplete


@click.command()
@click.argument("root")
@click.option("--damaged", is_flag=True, help="Only what was found damaged.")
@click.option("--incomplete", "unfinished", is_flag=True, help="Only saves that have not come to a commit, or not yet.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def ls(root: str, damaged: bool, unfinished: bool, as_json: bool) -> None:
    """List the checkpoints of ROOT, oldest first.

    A lost commit record is listed as damaged, and so is what was found damaged by a resume, a restore or verify.
    Whether the bytes of the others are whole is for verify to say. With --incomplete, what is in the folders of saves
    that no record lists: they are under way, or gc removes them.
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @, or use show")

    async def act(catalog: Catalog) -> tuple[Listing, list[Incomplete]]:
        listing = await catalog.listing()
        if not unfinished:
            return listing, []
        from asyncckpt.cli.incomplete import incomplete

        return listing, await incomplete(catalog, listing)

    listing, found = reading(root, act)
    shows_whole, shows_damaged = not (damaged or unfinished), damaged or not unfinished
    shown = [one for one in summaries(listing) if (shows_damaged if one.info.damaged else shows_whole)]
    lost = dict(listing.lost) if shows_damaged else {}
    if unfinished and listing.lost:
        what = f"{lost_records(listing.lost)}, and may be all that names what looks incomplete: nothing is called that"
        click.echo(f"{root}: {what}", err=True)
    if as_json:
        document: dict[str, Any] = {
            "root": root,
            "checkpoints": [summary.json() for summary in shown],
            "lost": [{"slot": slot, "reason": str(error)} for slot, error in lost.items()],
        }
        print_json(document | ({"incomplete": [one.json() for one in found]} if unfinished else {}))
        return
    if shown or lost:
        _print(shown, {slot: str(error) for slot, error in lost.items()})
    if found:
        _print_incomplete(found)
    if not (shown or lost or found or listing.lost):
        is_run = listing.head is not None
        click.echo(f"{root} holds nothing of that kind" if is_run and not shows_whole else nothing_in(root), err=True)


def _print(shown: list[Summary], lost: dict[int, str]) -> None:
    rows = [_row(summary) for summary in shown]
    rows += [[f"slot {slot}", "", "", "", "", "damaged", why] for slot, why in lost.items()]
    headings = ["ID", "STEP", "EPOCH", "AGE", "SIZE", "STATE", "METRICS"]
    print_table(headings, rows, right=("STEP", "EPOCH", "AGE", "SIZE"))


def _print_incomplete(found: list[Incomplete]) -> None:
    rows = [
        [
            f"{one.directory.seq:08d}", str(one.directory.step), str(one.directory.inc), str(len(one.lengths)),
            size(one.bytes), one.state,
        ]
        for one in found
    ]  # fmt: skip
    headings = ["SAVE", "STEP", "INCARNATION", "OBJECTS", "SIZE", "STATE"]
    print_table(headings, rows, right=("STEP", "INCARNATION", "OBJECTS", "SIZE"))


def _row(summary: Summary) -> list[str]:
    info = summary.info
    epoch = "" if info.epoch is None else str(info.epoch)
    return [info.id, str(info.step), epoch, age(info.created), size(info.size), summary.marks, short(info.metrics)]
