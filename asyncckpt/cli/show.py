"""``asyncckpt show``: what one checkpoint holds, from its record and manifest alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from asyncckpt.catalog import Catalog
from asyncckpt.cli.contents import Contents, Tensor
from asyncckpt.cli.exits import Exit
from asyncckpt.cli.following import follow, unless_removed
from asyncckpt.cli.output import age, print_json, print_table
from asyncckpt.cli.select import reading, target
from asyncckpt.cli.summary import Summary, short, summaries
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.names import directory_of, record_key
from asyncckpt.format.record import Checkpoint, PackUse, Record
from asyncckpt.listing import Listing
from asyncckpt.sizes import size


@dataclass(frozen=True, slots=True)
class Found:
    """One checkpoint with its record and its contents."""

    summary: Summary
    record: Record
    checkpoint: Checkpoint
    contents: Contents
    damage: Damage | None = None
    """What somebody has found damaged."""

    @property
    def folder(self) -> str:
        """The key under which everything of its own lies."""
        return self.checkpoint.folder

    @property
    def shared(self) -> int:
        """Bytes that it did not write, since an older checkpoint had."""
        return sum(pack.live for pack in self.checkpoint.packs if not self.is_own(pack))

    def is_own(self, pack: PackUse) -> bool:
        """Whether the pack was written for this checkpoint, and is not shared with an older one."""
        return pack.key.startswith(f"{self.folder}/")


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
        print_json(_json(found, listed))
    elif tensors is None:
        _print_everything(found)
    elif listed:
        _print_tensors(listed)
    if tensors is not None and not listed:
        click.echo(f"no tensor of it is named {tensors}", err=True)
        click.get_current_context().exit(Exit.ABSENT)


async def read(catalog: Catalog, listing: Listing, checkpoint: Checkpoint) -> Found:
    """Everything about `checkpoint`; raises `CheckpointCorruptError`, or `CheckpointNotFoundError` if it is removed."""
    summary = next(summary for summary in summaries(listing) if summary.info.seq == checkpoint.seq)
    record = next(record for record in listing.records if record.checkpoint is checkpoint)
    damage = await catalog.damage(Finding.of(checkpoint)) if summary.info.damaged else None
    async with unless_removed(catalog, checkpoint):
        return Found(summary, record, checkpoint, Contents(await catalog.manifest(checkpoint)), damage)


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
    yield "writer", f"process {writer.pid} on {writer.host}, incarnation {found.record.inc}"
    yield "record", record_key(found.record.slot)
    yield "folder", found.folder
    yield "digest", info.digest


def _print_tensors(tensors: list[Tensor]) -> None:
    rows = [
        [t.name, t.dtype, "x".join(map(str, t.shape)) or "scalar", size(t.nbytes), ".".join(t.alias_of or ())]
        for t in tensors
    ]
    print_table(["TENSOR", "DTYPE", "SHAPE", "SIZE", "SHARES THE BYTES OF"], rows, right=("SIZE",))


# -- for programs ------------------------------------------------------------------------------------------


def _damage_json(damage: Damage | None) -> dict[str, Any] | None:
    if damage is None:
        return None
    return {"kind": damage.kind, "reason": damage.reason, "found": damage.found / 1e6, "by": damage.author}


def _json(found: Found, tensors: list[Tensor]) -> dict[str, Any]:
    checkpoint, record = found.checkpoint, found.record
    return {
        **found.summary.json(),
        "run": found.contents.manifest.run,
        "incarnation": record.inc,
        "parent": checkpoint.parent,
        "world": checkpoint.world,
        "monitor": list(checkpoint.monitor) if checkpoint.monitor else None,
        "slot": record.slot,
        "writer": {"host": record.writer.host, "pid": record.writer.pid, "nonce": record.writer.nonce},
        "folder": found.folder,
        "shared": found.shared,
        "lacks": list(checkpoint.partial),
        "damage": _damage_json(found.damage),
        "manifest": {"key": checkpoint.manifest.key, "length": checkpoint.manifest.length},
        "packs": [{"key": p.key, "length": p.length, "live": p.live, "own": found.is_own(p)} for p in checkpoint.packs],
        "components": [component.json() for component in found.contents.components()],
        "tensors": [tensor.json() for tensor in tensors],
        "values": [value.json() for value in found.contents.values()],
    }
