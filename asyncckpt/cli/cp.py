"""``asyncckpt cp``: one checkpoint in another root."""

from __future__ import annotations

import click

from asyncckpt.checkpoints.listing import find
from asyncckpt.cli.copying import copied_to
from asyncckpt.cli.select import target


@click.command()
@click.argument("checkpoint")
@click.argument("destination")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def cp(checkpoint: str, destination: str, dry_run: bool, as_json: bool) -> None:
    """Copy CHECKPOINT (the latest where only a ROOT is given) to DESTINATION, a root in whatever store.

    Every byte is checked on the way, and it is listed there once all of it is there, under the same id: a training can
    resume from there, and load() and all commands read it. What it shares with others comes along. A copy that was
    interrupted is gone on with when it is asked for again.

    DESTINATION is empty, or has checkpoints of the same run that are all older. Pins and tags stay where they are.
    """
    chosen = target(checkpoint)
    copied_to(
        chosen,
        destination,
        lambda catalog, listing: [find(listing, chosen.chosen, catalog.storage.url)],
        dry_run=dry_run,
        as_json=as_json,
    )
