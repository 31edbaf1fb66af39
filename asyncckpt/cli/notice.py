"""Notice: what a person has to know who marks a checkpoint of a run that a training may hold."""

from __future__ import annotations

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.worker.commitlog.offline import may_be_held


async def notice(catalog: Catalog) -> None:
    """Say from when on a mark that was just made counts: a record that is being written now knows nothing of it."""
    head = await catalog.head()
    if head is not None and may_be_held(head):
        click.echo("a training may hold this run: it takes that into account from its next save on", err=True)
