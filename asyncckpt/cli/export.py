"""``asyncckpt export``: a checkpoint as files that other systems read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.cli.amount import amount
from asyncckpt.cli.counted import counted
from asyncckpt.cli.output import print_json
from asyncckpt.cli.printable import printable
from asyncckpt.cli.select import Target, acting, elsewhere, reading, target
from asyncckpt.cli.status import StatusLine
from asyncckpt.convert.exporting import Exported, Layout, Weights, export_weights
from asyncckpt.convert.place import Place
from asyncckpt.errors import CheckpointNotFoundError, IncompatibleState
from asyncckpt.format.record import Checkpoint
from asyncckpt.inspection.following import follow, unless_removed
from asyncckpt.sizes import size

_MOST_HF = 50 * 10**9
"""As Hugging Face cuts its own."""


@click.command()
@click.argument("checkpoint")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--to", "form", type=click.Choice(["safetensors", "hf", "torch", "dcp"]), required=True, help="What is written."
)
@click.option("--only", "parts", multiple=True, metavar="PART", help="A part of the state; may be given again.")
@click.option("--max-shard-size", "most", metavar="SIZE", callback=amount, help="Cut files: 5GB, 512MiB [hf: 50GB].")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The config.json for --to hf."
)
@click.option("--overwrite", is_flag=True, help="Take the place of an earlier export.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def export(
    checkpoint: str,
    dest: Path,
    form: str,
    parts: tuple[str, ...],
    most: int | None,
    config: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write CHECKPOINT (ROOT@latest, @best, @STEP, @ID; the latest where none is named) to DEST.

    \b
    safetensors  one file of the model's tensors, under the names of its state_dict(); with
                 --max-shard-size a folder of files and an index
    hf           a folder as Hugging Face has it: model.safetensors and config.json; tied
                 weights are stored once
    torch        one file that torch.load(weights_only=True) reads: every part by its name
    dcp          a folder that torch.distributed.checkpoint.load reads: every part by its name

    The first two hold the model, or the parts that --only names ("extra.ema"), need no torch and little memory. The
    others hold everything, or those parts, and take as much memory. Every byte is checked on the way. DEST is on this
    machine; it is there as a whole or not at all, and what is there already stays, unless --overwrite replaces an
    earlier export.

    \b
    asyncckpt export runs/first@best model.safetensors --to safetensors
    asyncckpt export s3://bucket/run@20000 gpt2/ --to hf --config config.json --max-shard-size 5GB
    """
    chosen = target(checkpoint)
    _check_options(form, dest, most, config)
    is_folder = form in ("hf", "dcp") or (form == "safetensors" and most is not None)
    place = Place(dest, overwrite=overwrite, folder=is_folder)
    if (reason := place.taken()) is not None:
        raise click.UsageError(reason)
    with closing(StatusLine()) as status, place.made():
        try:
            if form in ("torch", "dcp"):
                done = _with_torch(chosen, place, form, parts or None, status)
            else:
                kind: Layout = "hf" if form == "hf" else "folder" if is_folder else "file"
                given = None if config is None else config.read_bytes()
                wanted = Weights(kind, parts or ("model",), most or (_MOST_HF if kind == "hf" else None), given)
                done = _weights(chosen, wanted, place, status)
        except IncompatibleState as error:
            raise CheckpointNotFoundError(str(error)) from error  # a part that is not there
        files = place.do("a look at it", lambda: _files(place.hidden, dest))
    for note in done.exported.notes:
        click.echo(printable(note), err=True)
    if as_json:
        print_json(_json(chosen, dest, form, done, files))
    else:
        what = counted(done.exported.tensors, "tensor") if done.exported.tensors else "the state"
        click.echo(f"{done.id} (step {done.step}): {what}, {size(sum(files.values()))}, in {dest}")


@dataclass(frozen=True, slots=True)
class _Done:
    """Which checkpoint was exported, and what became of it."""

    id: str
    step: int
    exported: Exported


def _check_options(form: str, dest: Path, most: int | None, config: Path | None) -> None:
    if (url := re.match(r"(\w{2,}:)/(.*)", str(dest))) is not None:  # a path has one slash of the two
        said = f"{url[1]}//{url[2]}"
        raise click.UsageError(f"{said} is a URL: an export is written on this machine; copy it there afterwards")
    if most is not None and form not in ("safetensors", "hf"):
        raise click.UsageError(f"--max-shard-size is for safetensors and hf, not for {form}")
    if config is not None and form != "hf":
        raise click.UsageError(f"--config is for hf, not for {form}")


def _weights(chosen: Target, wanted: Weights, into: Place, status: StatusLine) -> _Done:
    def tell(done: int, total: int) -> None:
        status.show(f"exporting {size(total)}, {100 * done // max(total, 1)} %")

    async def act(catalog: Catalog) -> _Done:
        async def one(_: Listing, checkpoint: Checkpoint) -> _Done:
            async with unless_removed(catalog, checkpoint):
                exported = await export_weights(catalog, checkpoint, wanted, into, tell)
            return _Done(f"{checkpoint.seq:08d}", checkpoint.step, exported)

        return await follow(catalog, chosen.chosen, one)

    return acting(chosen.root, act)


def _with_torch(chosen: Target, into: Place, form: str, parts: tuple[str, ...] | None, status: StatusLine) -> _Done:
    status.show(f"reading {chosen.root}")
    reading(chosen.root, lambda catalog: catalog.named(chosen.chosen))  # before torch, which takes seconds to import
    from asyncckpt.convert.exporting_state import export_state

    with elsewhere(chosen.root):
        info, exported = export_state(chosen.root, chosen.chosen, into, "dcp" if form == "dcp" else "torch", parts)
    return _Done(info.id, info.step, exported)


def _files(hidden: Path, dest: Path) -> dict[str, int]:
    if hidden.is_dir():
        return {path.name: path.stat().st_size for path in sorted(hidden.iterdir())}
    return {dest.name: hidden.stat().st_size}


def _json(chosen: Target, dest: Path, form: str, done: _Done, files: Mapping[str, int]) -> dict[str, Any]:
    return {
        "root": chosen.root,
        "id": done.id,
        "step": done.step,
        "to": form,
        "dest": str(dest),
        "tensors": done.exported.tensors,
        "files": [{"name": name, "bytes": nbytes} for name, nbytes in files.items()],
        "notes": list(done.exported.notes),
    }
