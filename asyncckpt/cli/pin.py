"""``asyncckpt pin``: keep a checkpoint whatever retention says."""

from __future__ import annotations

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.marking import mark
from asyncckpt.cli.notice import notice
from asyncckpt.cli.output import print_json
from asyncckpt.cli.select import acting, target
from asyncckpt.clock import SYSTEM_CLOCK


@click.command()
@click.argument("checkpoint")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def pin(checkpoint: str, as_json: bool) -> None:
    """Pin CHECKPOINT (the latest where only a ROOT is given): retention spares it until it is unpinned.

    A training that is running takes that into account from its next save on.
    """
    chosen = target(checkpoint)

    async def act(catalog: Catalog) -> tuple[int, int]:
        found = await mark(catalog, chosen.chosen, None, SYSTEM_CLOCK)
        await notice(catalog)
        return found.seq, found.step

    seq, step = acting(chosen.root, act)
    if as_json:
        print_json({"root": chosen.root, "id": f"{seq:08d}", "pinned": True})
    else:
        click.echo(f"{seq:08d} (step {step}) is pinned")
