"""``asyncckpt sync``: all checkpoints of a run in another root."""

from __future__ import annotations

import click

from asyncckpt.cli.copying import copied_to
from asyncckpt.cli.select import target


@click.command()
@click.argument("root")
@click.argument("destination")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def sync(root: str, destination: str, dry_run: bool, as_json: bool) -> None:
    """Copy every checkpoint of ROOT that is newer than all in DESTINATION there, oldest first.

    Each is listed there once all of it is there, every byte checked on the way, under the same id; one that is damaged
    is told, and left out. A sync that was interrupted goes on where it was. Nothing is removed in DESTINATION, and what
    was removed in ROOT stays there. A training may be saving into ROOT; DESTINATION must not be a mirror that it keeps.

    The latest is the one that it is in ROOT. Pins and tags stay where they are.
    """
    chosen = target(root)
    if chosen.which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @, or use cp")
    copied_to(chosen, destination, lambda catalog, listing: listing.checkpoints, dry_run=dry_run, as_json=as_json)
