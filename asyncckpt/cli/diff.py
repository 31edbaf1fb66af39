"""``asyncckpt diff``: what has changed between two checkpoints, from their manifests alone."""

from __future__ import annotations

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.diffing import compared, contents_of
from asyncckpt.checkpoints.listing import CheckpointInfo, Which
from asyncckpt.cli.output import print_json
from asyncckpt.cli.printable import printable
from asyncckpt.cli.select import reading, target
from asyncckpt.format.contents import Contents
from asyncckpt.sizes import size


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def diff(first: str, second: str, as_json: bool) -> None:
    """Show what has changed from FIRST (ROOT@STEP, @ID, @best ...) to SECOND.

    SECOND may be of another root, or of the same: @latest. Digests are compared, and no byte of a tensor is read.
    """
    one = target(first)
    other = target(second if second.rpartition("@")[0] else f"{one.root}{second}" if "@" in second else second)
    a, of_a = _read(one.root, one.chosen)
    b, of_b = _read(other.root, other.chosen)
    found = compared(a, of_a, b, of_b)
    if as_json:
        print_json(found.json())
        return
    for name, changes in (("tensor", found.tensors), ("value", found.values)):
        for sign, names in (("~", changes.changed), ("+", changes.added), ("-", changes.removed)):
            for each in names:
                click.echo(f"{sign} {name} {printable(each)}")
    if found.identical:
        click.echo(f"{a.id} and {b.id} hold the same state")
    else:
        click.echo(
            f"{a.id} (step {a.step}) to {b.id} (step {b.step}): {size(found.same)} of {size(found.total)} are the same "
            f"({found.similarity:.1%})"
        )


def _read(root: str, which: Which) -> tuple[CheckpointInfo, Contents]:
    async def act(catalog: Catalog) -> tuple[CheckpointInfo, Contents]:
        return await contents_of(catalog, which)

    return reading(root, act)
