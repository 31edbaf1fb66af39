"""``asyncckpt ls``: the checkpoints of a run, oldest first."""

from __future__ import annotations

from typing import Any

import click

from asyncckpt.catalog import Catalog, CheckpointInfo, Listing
from asyncckpt.cli.output import age, finite, print_json, print_table, size
from asyncckpt.cli.select import reading


@click.command()
@click.argument("root")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def ls(root: str, as_json: bool) -> None:
    """List the checkpoints of ROOT, oldest first. A lost commit record is listed as damaged."""

    async def act(catalog: Catalog) -> Listing:
        return await catalog.listing()

    listing = reading(root, act)
    latest = listing.head.latest if listing.head else None
    if as_json:
        rows = [entry(info, latest) for info in listing.infos()]
        lost = [{"slot": slot, "reason": str(error)} for slot, error in listing.lost.items()]
        print_json({"root": root, "checkpoints": rows, "lost": lost})
        return
    if not listing.records and not listing.lost:
        click.echo(f"{root} holds no checkpoints", err=True)
        return
    rows_of_text = [_row(info, latest) for info in listing.infos()]
    rows_of_text += [[f"slot {slot}", "", "", "", "", "damaged", str(e)] for slot, e in listing.lost.items()]
    print_table(["ID", "STEP", "EPOCH", "AGE", "SIZE", "STATE", "METRICS"], rows_of_text)


def entry(info: CheckpointInfo, latest: int | None) -> dict[str, Any]:
    """One checkpoint as JSON."""
    return {
        "id": info.id,
        "seq": info.seq,
        "step": info.step,
        "epoch": info.epoch,
        "created": info.created,
        "size": info.size,
        "digest": info.digest,
        "metrics": {name: finite(value) for name, value in info.metrics.items()},
        "tags": list(info.tags),
        "pinned": info.pinned,
        "latest": info.seq == latest,
        "best": info.is_best,
        "partial": info.partial,
        "code_version": info.code_version,
    }


def _row(info: CheckpointInfo, latest: int | None) -> list[str]:
    marks = [name for name, on in (("latest", info.seq == latest), ("best", info.is_best)) if on]
    metrics = " ".join(f"{name}={value:.4g}" for name, value in info.metrics.items())
    epoch = "" if info.epoch is None else str(info.epoch)
    return [info.id, str(info.step), epoch, age(info.created), size(info.size), " ".join(marks), metrics]
