"""``asyncckpt verify``: whether checkpoints are what their digests say."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import click

from asyncckpt.catalog import Catalog
from asyncckpt.cli.output import print_json, print_table
from asyncckpt.cli.select import Target, reading, target
from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format.record import Checkpoint
from asyncckpt.reading import verify as verify_checkpoint


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What became of one checkpoint's check."""

    name: str
    step: int | None
    reason: str | None

    @property
    def word(self) -> str:
        return "ok" if self.reason is None else "damaged"


@click.command()
@click.argument("checkpoint")
@click.option("--full/--quick", default=True, help="Every byte (default), or only lengths, headers and manifests.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(checkpoint: str, full: bool, as_json: bool) -> None:
    """Check CHECKPOINT, or all that are listed where only a ROOT is given. Exit code 1 if any is damaged."""
    chosen = target(checkpoint)

    async def act(catalog: Catalog) -> list[_Verdict]:
        return await _verdicts(catalog, chosen, full)

    verdicts = reading(chosen.root, act)
    if as_json:
        rows = [{"id": v.name, "step": v.step, "state": v.word, "reason": v.reason} for v in verdicts]
        print_json({"root": chosen.root, "full": full, "checkpoints": rows})
    elif verdicts:
        print_table(
            ["ID", "STEP", "STATE", "REASON"],
            [[v.name, "" if v.step is None else str(v.step), v.word, v.reason or ""] for v in verdicts],
        )
    if not verdicts:
        click.echo(f"{chosen.root} holds no checkpoints", err=True)
        sys.exit(3)
    sys.exit(any(v.reason is not None for v in verdicts))


async def _verdicts(catalog: Catalog, chosen: Target, full: bool) -> list[_Verdict]:
    listing = await catalog.listing()
    named = listing.checkpoints if chosen.which is None else [listing.find(chosen.which)]
    lost = [] if chosen.which is not None else [_Verdict(f"slot {s}", None, str(e)) for s, e in listing.lost.items()]
    return [*lost, *[v for c in named if (v := await _verdict(catalog, c, full)) is not None]]


async def _verdict(catalog: Catalog, checkpoint: Checkpoint, full: bool) -> _Verdict | None:
    """The verdict on one checkpoint; None if retention removed it meanwhile, which is not damage."""
    name = f"{checkpoint.seq:08d}"
    if sys.stderr.isatty():
        click.echo(f"checking {name} (step {checkpoint.step})", err=True)
    try:
        await verify_checkpoint(catalog, checkpoint, full=full)
    except (CheckpointCorruptError, UnsupportedFormat) as error:
        return _Verdict(name, checkpoint.step, str(error)) if await catalog.is_listed(checkpoint) else None
    return _Verdict(name, checkpoint.step, None)
