"""``asyncckpt import``: what another system has saved as a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import click

from asyncckpt.cli.counted import counted
from asyncckpt.cli.output import print_json
from asyncckpt.cli.printable import printable
from asyncckpt.cli.select import reading, target
from asyncckpt.cli.status import StatusLine
from asyncckpt.convert.committing import check_free, commit, gathered
from asyncckpt.convert.importing import imported
from asyncckpt.convert.sources import Kind
from asyncckpt.errors import CheckpointDirectoryExistsError
from asyncckpt.format.record import Record
from asyncckpt.inspection.schema import finite
from asyncckpt.sizes import size
from asyncckpt.storage import from_url
from asyncckpt.storage.changing import bounded_changing


@click.command("import")
@click.argument("src", type=click.Path(exists=True, path_type=Path))
@click.argument("root")
@click.option(
    "--from", "kind", type=click.Choice(["auto", "torch", "safetensors", "dcp", "hf", "lightning"]), default="auto",
    help="What SRC is [default: auto, what it looks like].",
)  # fmt: skip
@click.option("--step", type=click.IntRange(min=0), help="Its step, in place of what SRC says.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def import_(src: Path, root: str, kind: str, step: int | None, as_json: bool) -> None:
    """Make the first checkpoint of ROOT, a folder or a URL, from SRC, a file or a folder on this machine.

    \b
    torch        a file of torch.save: a state_dict, or a dict with a model in it
    safetensors  one file of tensors: a model
    dcp          a folder of torch.distributed.checkpoint, of however many ranks
    hf           a folder of Hugging Face's: weights in any number of files, and of a checkpoint of
                 its trainer the optimizer, scheduler, scaler and step as well
    lightning    a .ckpt: state_dict, optimizers, schedulers, step; the rest is the extra "lightning"

    The model is then the checkpoint's part "model", the optimizer "optimizer", and so on: resume() with the same
    objects brings them back, and random state goes on as it is. Nothing in SRC is ever run: a pickle that holds more
    than data is refused, and the class named. ROOT must hold no checkpoint, and no training. It takes as much memory as
    the state has bytes.

    \b
    asyncckpt import lightning_logs/version_3/checkpoints/last.ckpt runs/continued
    asyncckpt import ./gpt2 s3://bucket/gpt2 --step 0
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @")
    try:
        reading(root, check_free)
    except CheckpointDirectoryExistsError as error:
        raise click.UsageError(str(error)) from error
    with closing(StatusLine()) as status:
        status.show(f"reading {src}")
        image, about, found = imported(src, None if kind == "auto" else cast(Kind, kind))
        about = about if step is None else replace(about, step=step)
        memory = gathered(image, _telling(status, "reading"))
        status.show(f"writing {size(image.layout.bytes)} to {root}")
        record = commit(lambda: bounded_changing(from_url(root)), image, memory, about, f"imported from {src.name}")
    notes = [*about.notes]
    if about.step is None:
        notes.append("SRC says no step: it is 0 (give another with --step)")
    for note in notes:
        click.echo(printable(note), err=True)
    _print(src, root, found, record, len(image.layout.tensors) + len(image.layout.aliases), notes, as_json=as_json)


def _telling(status: StatusLine, what: str) -> Callable[[int, int], None]:
    return lambda done, total: status.show(f"{what} {size(total)}, {100 * done // max(total, 1)} %")


def _print(src: Path, root: str, kind: str, record: Record, tensors: int, notes: list[str], *, as_json: bool) -> None:
    checkpoint = record.checkpoint
    if checkpoint is None:  # a commit tells of one
        return
    identity = f"{checkpoint.seq:08d}"
    if as_json:
        metrics = {name: finite(value) for name, value in checkpoint.metrics.items()}
        print_json(
            {
                "root": root,
                "id": identity,
                "step": checkpoint.step,
                "epoch": checkpoint.epoch,
                "metrics": metrics,
                "from": kind,
                "src": str(src),
                "tensors": tensors,
                "bytes": checkpoint.size,
                "notes": notes,
            }
        )
    else:
        click.echo(
            f"{identity} (step {checkpoint.step}): {counted(tensors, 'tensor')}, {size(checkpoint.size)}, in {root}"
        )
