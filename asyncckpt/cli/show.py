"""``asyncckpt show``: what one checkpoint holds, from its record and manifest alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.cli.exits import Exit
from asyncckpt.cli.output import age, print_json, print_table
from asyncckpt.cli.select import reading, target
from asyncckpt.format.names import directory_of, record_key
from asyncckpt.format.record import PackUse
from asyncckpt.inspection.contents import Tensor
from asyncckpt.inspection.following import follow
from asyncckpt.inspection.found import Found, json_of, read
from asyncckpt.inspection.summary import short
from asyncckpt.sizes import size


@click.command()
@click.argument("checkpoint")
@click.option(
    "--tensors", metavar="[GLOB]", is_flag=False, flag_value="*", help="List tensors by name; goes behind CHECKPOINT."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(checkpoint: str, tensors: str | None, as_json: bool) -> None:
    """Show what CHECKPOINT (ROOT@latest, @best, @STEP, @ID; the latest where none is named) holds."""
    chosen = target(checkpoint)

    async def act(catalog: Catalog) -> Found:
        return await follow(catalog, chosen.chosen, lambda *named: read(catalog, *named))

    found = reading(chosen.root, act)
    listed = found.contents.tensors(tensors or "*")
    if as_json:
        print_json(json_of(found, listed))
    elif tensors is None:
        _print_everything(found)
    elif listed:
        _print_tensors(listed)
    if tensors is not None and not listed:
        click.echo(f"no tensor of it is named {tensors}", err=True)
        click.get_current_context().exit(Exit.ABSENT)


# -- for people --------------------------------------------------------------------------------------------


def _print_everything(found: Found) -> None:
    print_table(["FIELD", "VALUE"], [(name, value or "-") for name, value in _facts(found)])
    click.echo()
    packs = [[p.key, size(p.length), size(p.live), origin(found, p)] for p in found.checkpoint.packs]
    print_table(["PACK", "SIZE", "USED", "ORIGIN"], packs, right=("SIZE", "USED"))
    click.echo()
    parts = [[c.name, str(c.tensors), size(c.nbytes), str(c.values)] for c in found.contents.components()]
    print_table(["COMPONENT", "TENSORS", "SIZE", "VALUES"], parts, right=("TENSORS", "SIZE", "VALUES"))
    click.echo()
    print_table(["NAME", "VALUE"], [[value.name, value.text] for value in found.contents.values()])


def origin(found: Found, pack: PackUse) -> str:
    """Whose pack it is, for people."""
    if found.is_own(pack):
        return "own"
    directory = directory_of(pack.key)
    return f"of {directory.seq:08d}" if directory else "older"


def _facts(found: Found) -> Iterator[tuple[str, str]]:
    checkpoint, info, writer = found.checkpoint, found.summary.info, found.record.writer
    saved = datetime.fromtimestamp(info.created, UTC).isoformat(timespec="seconds")
    yield "id", info.id
    yield "step", str(info.step)
    yield "epoch", "" if info.epoch is None else str(info.epoch)
    yield "saved", f"{saved} ({age(info.created)} ago)"
    yield "state", found.summary.marks
    if (damage := found.damage) is not None:
        yield "damage", f"{damage.reason} (found {age(damage.found / 1e6)} ago by {damage.author})"
    if checkpoint.partial:
        yield "lacks", ", ".join(checkpoint.partial)
    yield "size", size(info.size)
    yield "shared", f"{size(found.shared)} with older checkpoints" if found.shared else ""
    yield "metrics", short(info.metrics)
    yield "message", info.message or ""
    yield "best by", " ".join(checkpoint.monitor or ())
    yield "continued from", "" if checkpoint.parent is None else f"{checkpoint.parent:08d}"
    yield "ranks", str(checkpoint.world)
    yield "code version", info.code_version or ""
    yield "run", found.contents.manifest.run
    yield "writer", f"{writer.shown}, incarnation {found.record.inc}"
    yield "record", record_key(found.record.slot)
    yield "folder", found.folder
    yield "digest", info.digest


def _print_tensors(tensors: list[Tensor]) -> None:
    rows = [
        [t.name, t.dtype, "x".join(map(str, t.shape)) or "scalar", size(t.nbytes), ".".join(t.alias_of or ())]
        for t in tensors
    ]
    print_table(["TENSOR", "DTYPE", "SHAPE", "SIZE", "SHARES THE BYTES OF"], rows, right=("SIZE",))
