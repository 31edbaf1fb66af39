"""Exporting: a checkpoint's tensors into files of safetensors, or a folder as Hugging Face has it. Without torch."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.convert import huggingface
from asyncckpt.convert.named import Named, named
from asyncckpt.convert.place import Place
from asyncckpt.convert.weights import files, is_disguised, write
from asyncckpt.format.elements import is_complex
from asyncckpt.format.record import Checkpoint

Layout: TypeAlias = Literal["file", "folder", "hf"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, by file name and in bytes, and what somebody should know of it."""

    files: Mapping[str, int]
    tensors: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Weights:
    """What is wanted: the parts of the state, files of at most so many bytes, and for a folder of Hugging Face's,
    which `config` (its bytes) lies there.
    """

    kind: Layout
    only: Collection[str] = ("model",)
    most: int | None = None
    config: bytes | None = None


async def export_weights(
    catalog: Catalog, checkpoint: Checkpoint, wanted: Weights, into: Place, progress: Callable[[int, int], None]
) -> Exported:
    """Write the tensors of `checkpoint` to `into`, a file or a folder that is there.

    `progress` is told how many bytes of how many were read. Raises `IncompatibleState` for a part that has none,
    else as `asyncckpt.fetching.reading.fetch` and `Place.do` do, and `OSError`.
    """
    contents = (await catalog.manifest(checkpoint)).contents
    tensors = named(contents, wanted.only, checkpoint.step)
    planned = files(
        tensors,
        lambda number, count: into.path.name if wanted.kind == "file" else huggingface.shard_name(number, count),
        wanted.most,
        _about(checkpoint, wanted.only),
        ties=wanted.kind != "hf",
    )
    total = sum(contents.tensors[path].nbytes for path in {one.path for one in tensors})
    done = 0

    def more(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, total)

    paths = {into.hidden if wanted.kind == "file" else into.hidden / file.name: file for file in planned}
    await write(catalog.storage, contents, tensors, paths, into, more)
    sizes = {file.name: file.size for file in planned}
    notes = [*_disguised(tensors)]
    if wanted.kind != "file" and (wanted.kind == "folder" or len(planned) > 1):
        written = sum(file.size - len(file.header) for file in planned)
        sizes |= await _beside(into, huggingface.INDEX, huggingface.index(planned, written))
    if wanted.kind == "hf":
        config = await huggingface.config(catalog.storage, contents, wanted.config)
        if config is None:
            notes.append("no config.json is known: transformers needs one beside the weights; give it with --config")
        else:
            sizes |= await _beside(into, huggingface.CONFIG, config)
    return Exported(sizes, sum(len(file.starts) for file in planned), tuple(notes))


async def _beside(into: Place, name: str, data: bytes) -> dict[str, int]:
    await asyncio.to_thread(into.do, f"writing {name}", lambda: (into.hidden / name).write_bytes(data))
    return {name: len(data)}


def _about(checkpoint: Checkpoint, only: Collection[str]) -> dict[str, Any]:
    return {
        "id": f"{checkpoint.seq:08d}",
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "metrics": {name: v if math.isfinite(v) else repr(v) for name, v in checkpoint.metrics.items()},
        "parts": sorted(only),
    }


def _disguised(tensors: Collection[Named]) -> list[str]:
    """What other tools will see differently."""
    kinds = sorted({one.dtype for one in tensors if is_disguised(one.dtype)})
    stands = {dtype: "pairs of numbers" if is_complex(dtype) else "integers" for dtype in kinds}
    return [
        f"safetensors has no name for {dtype}: it stands there as {what}, which asyncckpt import takes for what it is"
        for dtype, what in stands.items()
    ]
