"""``asyncckpt ls``: the checkpoints of a run, oldest first."""

from __future__ import annotations

import click

from asyncckpt.catalog import Catalog
from asyncckpt.cli.output import age, print_json, print_table, size
from asyncckpt.cli.select import reading, target
from asyncckpt.cli.summary import Summary, short, summaries
from asyncckpt.listing import Listing


@click.command()
@click.argument("root")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def ls(root: str, as_json: bool) -> None:
    """List the checkpoints of ROOT, oldest first.

    A lost commit record is listed as damaged, and so is what was found damaged by a resume, a restore or verify.
    Whether the bytes of the others are whole is for verify to say.
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @, or use show")

    async def act(catalog: Catalog) -> Listing:
        return await catalog.listing()

    listing = reading(root, act)
    if as_json:
        rows = [summary.json() for summary in summaries(listing)]
        lost = [{"slot": slot, "reason": str(error)} for slot, error in listing.lost.items()]
        print_json({"root": root, "checkpoints": rows, "lost": lost})
    elif listing.records or listing.lost:
        _print(listing)
    else:
        click.echo(f"{root} holds no checkpoints", err=True)


def _print(listing: Listing) -> None:
    rows = [_row(summary) for summary in summaries(listing)]
    rows += [[f"slot {slot}", "", "", "", "", "damaged", str(error)] for slot, error in listing.lost.items()]
    headings = ["ID", "STEP", "EPOCH", "AGE", "SIZE", "STATE", "METRICS"]
    print_table(headings, rows, right=("STEP", "EPOCH", "AGE", "SIZE"))


def _row(summary: Summary) -> list[str]:
    info = summary.info
    epoch = "" if info.epoch is None else str(info.epoch)
    return [info.id, str(info.step), epoch, age(info.created), size(info.size), summary.marks, short(info.metrics)]
