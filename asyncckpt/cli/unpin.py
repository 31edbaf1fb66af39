"""``asyncckpt unpin``: leave a checkpoint to retention again."""

from __future__ import annotations

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import find
from asyncckpt.checkpoints.marking import unmark
from asyncckpt.cli.output import print_json
from asyncckpt.cli.select import acting, target


@click.command()
@click.argument("checkpoint")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def unpin(checkpoint: str, as_json: bool) -> None:
    """Unpin CHECKPOINT (the latest where only a ROOT is given); one that is not pinned stays as it is."""
    chosen = target(checkpoint)

    async def act(catalog: Catalog) -> tuple[int, int]:
        found = find(await catalog.listing(), chosen.chosen, catalog.storage.url)
        return found.seq, await unmark(catalog, f"{found.seq:08d}", None)

    seq, gone = acting(chosen.root, act)
    if as_json:
        print_json({"root": chosen.root, "id": f"{seq:08d}", "pinned": False})
    else:
        click.echo(f"{seq:08d} is left to retention" if gone else f"{seq:08d} was not pinned")
