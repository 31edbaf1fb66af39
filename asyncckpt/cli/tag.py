"""``asyncckpt tag``: a name for a checkpoint, which also keeps it."""

from __future__ import annotations

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.marking import mark, unmark
from asyncckpt.cli.exits import Exit
from asyncckpt.cli.notice import notice
from asyncckpt.cli.output import print_json
from asyncckpt.cli.select import acting, target
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.format.record import Checkpoint


@click.command()
@click.argument("checkpoint")
@click.argument("name")
@click.option("--delete", is_flag=True, help="Take the tag away, from whichever checkpoint has it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def tag(checkpoint: str, name: str, delete: bool, as_json: bool) -> None:
    """Tag CHECKPOINT (the latest where only a ROOT is given) with NAME, taking it from any other.

    Retention spares a tagged checkpoint, and ROOT@NAME names it; where there is a slash in NAME only load() takes it,
    since ROOT@a/b may be a folder. A training that is running takes that into account
    from its next save on.
    """
    chosen = target(checkpoint)
    if delete and chosen.which is not None:
        raise click.UsageError(f"{checkpoint} names one checkpoint: to delete a tag leave out the @")

    async def act(catalog: Catalog) -> Checkpoint | int:
        if delete:
            return await unmark(catalog, None, name)
        marked = await mark(catalog, chosen.chosen, name, SYSTEM_CLOCK)
        await notice(catalog)
        return marked

    try:
        found = acting(chosen.root, act)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if isinstance(found, Checkpoint):
        told, text = f"{found.seq:08d}", f"{found.seq:08d} (step {found.step}) is now {name}"
    else:
        told, text = None, f"the tag {name} is gone"
    if as_json:
        print_json({"root": chosen.root, "tag": name, "id": told})
    elif found:
        click.echo(text)
    if not found:
        click.echo(f"no checkpoint of {chosen.root} has the tag {name}", err=True)
        click.get_current_context().exit(Exit.ABSENT)
