"""``asyncckpt resume-path``: what a training would resume from, for shell scripts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import click

from asyncckpt.checkpoints.catalog import ATTEMPTS, Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.cli.exits import Exit, reason
from asyncckpt.cli.nothing import nothing_in
from asyncckpt.cli.output import print_json
from asyncckpt.cli.printable import printable
from asyncckpt.cli.select import reading, target
from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError, RunContended
from asyncckpt.fetching.reading import verify
from asyncckpt.format.record import Checkpoint
from asyncckpt.inspection.following import follow, unless_removed


@click.command("resume-path")
@click.argument("root")
@click.option("--id", "as_id", is_flag=True, help="Print the id, as in ROOT@ID, instead of the path.")
@click.option("--full/--quick", default=False, help="Check every byte, or lengths, headers and manifests (default).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def resume_path(root: str, as_id: bool, full: bool, as_json: bool) -> None:
    """Print the path of the checkpoint that a training would resume from: the newest sound one of ROOT.

    That is the latest; where it is damaged, or was noted as damaged, the one that its training came from, and so on, as
    resume() does, which checks every byte as it reads it. ROOT@best, @STEP, @ID or @TAG asks about that one alone. What
    is passed over is said on standard error. Of a local tier nothing is known here.

    The status is 3 where there is nothing to resume from, and a training would begin. It is 1 where all there is is
    damaged or partial, and 4 where the store cannot be read: a training would raise, and a script should stop too.

    \b
      if id=$(asyncckpt resume-path "$ROOT" --id); then echo "goes on from $id"
      elif [ $? -eq 3 ]; then echo "begins"; else exit 1; fi
    """
    chosen = target(root)

    async def act(catalog: Catalog) -> Search:
        if chosen.which is None or chosen.which == "latest":
            return await _nearest(catalog, full=full)
        return await follow(catalog, chosen.which, lambda listing, one: _search(catalog, listing, [one], full=full))

    search = reading(chosen.root, act)
    for passed in search.passed:
        click.echo(f"passed over: {printable(passed.line)}", err=True)
    if as_json:
        print_json({"root": chosen.root, **search.json()})
    elif search.found is not None:
        click.echo(f"{search.found.seq:08d}" if as_id else search.path)
    if search.status is Exit.ABSENT:
        click.echo(nothing_in(chosen.root), err=True)
    click.get_current_context().exit(search.status)


@dataclass(frozen=True, slots=True)
class Passed:
    """What a training would not go on from, and why."""

    id: str
    step: int | None
    reason: str

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.id if self.step is None else f'{self.id} (step {self.step})'}: {self.reason}"

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"id": self.id, "step": self.step, "reason": self.reason}


@dataclass(slots=True)
class Search:
    """What a search has come to: the checkpoint, and what it passed over."""

    url: str
    found: Checkpoint | None = None
    passed: list[Passed] = field(default_factory=list)

    @property
    def path(self) -> str | None:
        """Where everything of its own lies."""
        return None if self.found is None else f"{self.url}/{self.found.folder}"

    @property
    def status(self) -> Exit:
        """What a script is told."""
        if self.found is not None:
            return Exit.OK
        return Exit.DAMAGED if self.passed else Exit.ABSENT

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        id_, step = (None, None) if self.found is None else (f"{self.found.seq:08d}", self.found.step)
        return {"id": id_, "step": step, "path": self.path, "passed": [passed.json() for passed in self.passed]}


async def _nearest(catalog: Catalog, *, full: bool) -> Search:
    """Of what a resume would try the first that is sound; looked for anew where retention was faster."""
    for _ in range(ATTEMPTS):
        listing = await catalog.listing()
        with suppress(CheckpointNotFoundError):
            return await _search(catalog, listing, listing.candidates() or listing.checkpoints, full=full)
    raise RunContended(f"{catalog.storage.url}: retention was faster {ATTEMPTS} times: try again, or keep more")


async def _search(catalog: Catalog, listing: Listing, candidates: Iterable[Checkpoint], *, full: bool) -> Search:
    """The first of `candidates` that is sound; raises `CheckpointNotFoundError` if one was removed meanwhile."""
    search = Search(catalog.storage.url)
    search.passed += [Passed(f"slot {slot}", None, reason(error)) for slot, error in listing.lost.items()]
    for checkpoint in candidates:
        why = await _why_not(catalog, listing, checkpoint, full=full)
        if why is None:
            search.found = checkpoint
            break
        search.passed.append(Passed(f"{checkpoint.seq:08d}", checkpoint.step, why))
    return search


async def _why_not(catalog: Catalog, listing: Listing, checkpoint: Checkpoint, *, full: bool) -> str | None:
    """Why a training would not go on from it; None where it would, as far as was looked."""
    if checkpoint.partial:
        return f"is partial: it holds no {' and no '.join(checkpoint.partial)}; resume(allow_partial=True) takes it"
    if listing.is_damaged(checkpoint) and not full:  # a quick look may not see what somebody has seen
        return "was noted as damaged; --full looks again"
    try:
        async with unless_removed(catalog, checkpoint):
            await verify(catalog, checkpoint, full=full)
    except CheckpointCorruptError as error:
        return f"is damaged: {reason(error)}"
    return None
