"""``asyncckpt verify``: whether checkpoints are what their digests say."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import closing

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.checkpoints.marking import damage
from asyncckpt.cli.exits import Exit, reason
from asyncckpt.cli.nothing import nothing_in
from asyncckpt.cli.output import print_json, print_line
from asyncckpt.cli.printable import printable
from asyncckpt.cli.sampling import Sample, percent
from asyncckpt.cli.select import Target, reading, target
from asyncckpt.cli.status import StatusLine
from asyncckpt.cli.verdict import Verdict, exit_for_all, judge, verdict
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import CheckpointNotFoundError, StorageError
from asyncckpt.format.findings import Finding
from asyncckpt.format.record import Checkpoint
from asyncckpt.inspection.following import follow
from asyncckpt.sizes import size

_COLOURS = {"ok": "green", "damaged": "red"}


@click.command()
@click.argument("checkpoint")
@click.option("--full/--quick", default=True, help="Every byte (default), or only lengths, headers and manifests.")
@click.option("--sample", "share", metavar="PERCENT", callback=percent, help="--quick, and a random part of the bytes.")
@click.option("--seed", type=int, metavar="N", help="Which part; without it another one each time.")
@click.option("--note", is_flag=True, help="Leave word of it in ROOT; without it nothing is written there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(checkpoint: str, full: bool, share: float | None, seed: int | None, note: bool, as_json: bool) -> None:
    """Check CHECKPOINT, or all that are listed where only a ROOT is given. Exit code 1 if any is damaged.

    --sample 5% reads a random twentieth of each: what has a digest of its own, 64 MiB in a row at most, is as likely
    to be read as anything else. It says with which seed, and how likely damage was to be found.

    With --note, what is damaged is noted in ROOT: ls shows it, and from then on retention keeps it and counts it in no
    rule; and a full check that finds it sound again takes the note back. A training notes what it finds by itself.
    """
    chosen, sample = target(checkpoint), _sample(share, seed, full=full)
    full = full and sample is None
    with closing(Check(chosen, full, sample, notes=note)) as check:
        verdicts = reading(chosen.root, check.all if as_json else check.shown)
    status = exit_for_all(verdicts)
    if as_json:
        rows = [verdict.json() for verdict in verdicts]
        said = {} if sample is None else {"sample": sample.json()}
        print_json({"root": chosen.root, "full": full, "ok": status is Exit.OK, "checkpoints": rows, **said})
    elif sample is not None and verdicts:
        click.echo(sample.line)
    if not verdicts:
        click.echo(nothing_in(chosen.root), err=True)
    click.get_current_context().exit(status)


def _sample(share: float | None, seed: int | None, *, full: bool) -> Sample | None:
    if share is None:
        if seed is not None:
            raise click.UsageError("--seed is for --sample")
        return None
    if not full:
        raise click.UsageError("--sample is --quick and a part of the bytes: leave out --quick")
    return Sample(share, secrets.randbelow(1 << 32) if seed is None else seed)


class Check:
    """The check of one or all checkpoints, one after the other."""

    def __init__(self, chosen: Target, full: bool, sample: Sample | None = None, *, notes: bool) -> None:
        self._chosen, self._full, self._sample, self._notes = chosen, full, sample, notes
        self._status = StatusLine()

    def close(self) -> None:
        """Leave the terminal clean."""
        self._status.clear()

    async def all(self, catalog: Catalog) -> list[Verdict]:
        """Every verdict, when the last is there."""
        return [found async for found in self._verdicts(catalog)]

    async def shown(self, catalog: Catalog) -> list[Verdict]:
        """The same, and each is a line as soon as it is there."""
        found = []
        async for one in self._verdicts(catalog):
            self._status.clear()
            print_line(one.line, _COLOURS.get(one.state, "yellow"))
            found.append(one)
        return found

    async def _verdicts(self, catalog: Catalog) -> AsyncIterator[Verdict]:
        if self._chosen.which is not None:
            which = self._chosen.which
            yield await follow(catalog, which, lambda listing, one: self._judged(catalog, listing, one, "1 of 1"))
            return
        listing = await catalog.listing()
        for slot, error in listing.lost.items():
            yield Verdict(f"slot {slot}", None, "damaged", str(error))
        async for found in self.listed(catalog, listing):
            yield found

    async def listed(self, catalog: Catalog, listing: Listing) -> AsyncIterator[Verdict]:
        """The verdicts on what `listing` lists, one that was removed since among them."""
        for number, checkpoint in enumerate(listing.checkpoints, 1):
            try:
                yield await self._judged(catalog, listing, checkpoint, f"{number} of {len(listing.checkpoints)}")
            except CheckpointNotFoundError as error:
                yield verdict(checkpoint, "removed", error)

    async def _judged(self, catalog: Catalog, listing: Listing, checkpoint: Checkpoint, place: str) -> Verdict:
        what, done = f"checking {place}: step {checkpoint.step}, {size(checkpoint.size)}", 0
        choose = None if self._sample is None else self._sample.of(checkpoint)
        total = checkpoint.size * (1.0 if self._sample is None else self._sample.share)

        def more(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            self._status.show(f"{what}, {min(100, 100 * done // total):.0f} %")

        self._status.show(what)
        found = await judge(catalog, checkpoint, full=self._full, choose=choose, progress=more)
        if self._notes:
            finding = Finding.of(checkpoint)
            await self._note(catalog, finding, found, is_noted=finding in listing.findings)
        return found

    async def _note(self, catalog: Catalog, finding: Finding, found: Verdict, *, is_noted: bool) -> None:
        """Leave word of damage, or take that back; a root that can only be read is no reason to fail."""
        storage = catalog.storage
        try:
            if found.state == "damaged":
                said = damage(found.kind or "content", found.reason or "", SYSTEM_CLOCK)
                await storage.put(finding.key, [said.encode()])
            elif found.state == "ok" and is_noted and self._full:  # a quick look has not seen every byte
                await storage.delete([finding.key])
        except StorageError as error:
            self._status.clear()
            what = "is damaged" if found.state == "damaged" else "is sound again"
            click.echo(f"that {found.id} {what} could not be noted: {printable(reason(error))}", err=True)
