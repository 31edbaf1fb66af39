"""Importing: what lies at a path as the image of a state. Torch is imported only for what was saved with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncckpt.convert.huggingface import KEPT, tagged_json
from asyncckpt.convert.image import About, Held, Image, image
from asyncckpt.convert.named import row_major
from asyncckpt.convert.of_weights import Weights, weights
from asyncckpt.convert.sources import STATE, Folder, Kind, folder, kind_of
from asyncckpt.errors import UnsupportedFormat
from asyncckpt.format.contents import Alias
from asyncckpt.format.contents import Path as Place
from asyncckpt.format.sealed import Json
from asyncckpt.format.tagged import SHARED

if TYPE_CHECKING:
    from asyncckpt.convert.arranged import Arranged

_NUMBERED = re.compile(r"checkpoint-(\d+)")


def imported(path: Path, kind: Kind | None) -> tuple[Image, About, Kind]:
    """The image of what lies at `path`, what it says of itself, and what it is where `kind` does not say it.

    Raises `UnsupportedState`, naming the class, for what would take running code to read, and for what cannot be held;
    `UnsupportedFormat` for what is none of the kinds; `CheckpointCorruptError` for what is damaged; `StorageDenied`.
    """
    kind = kind or kind_of(path)
    if (kind in ("dcp", "hf")) != path.is_dir():
        raise UnsupportedFormat(f"{path} is a {'folder' if path.is_dir() else 'file'}, and {kind} is none: see --from")
    if kind == "safetensors":
        return *_of_weights(weights({str(path): path}), {}), kind
    if kind == "hf":
        return *_of_folder(path), kind
    return _with_torch(path, kind)


def _of_weights(found: Weights, documents: Mapping[str, Any]) -> tuple[Image, About]:
    tensors: dict[Place, Held] = {("model", name): held for name, held in found.tensors.items()}
    aliases: dict[Place, Alias] = {
        ("model", name): Alias(("model", to), held.dtype, held.shape, row_major(held.shape), 0)
        for name, to in found.ties.items()
        for held in (found.tensors[to],)
    }
    paths = [*tensors, *aliases]
    model: Json = {"$dict": [[path[1], {"$tensor": [*path]}] for path in paths]}
    extra: list[Json] = [["extra", {KEPT: tagged_json(dict(documents))}]] if documents else []
    return image(tensors, aliases, {SHARED: {"$dict": [["model", model], *extra, ["rng", {}]]}}), found.about


def _of_folder(path: Path) -> tuple[Image, About]:
    found = folder(path)
    if found.is_pickled or found.parts:
        made, about = _of_pickles(found)
    else:
        made, about = _of_weights(weights(found.weights), found.documents)
    said, numbered = found.documents.get(STATE, {}), _NUMBERED.fullmatch(path.name)
    step, epoch = said.get("global_step"), said.get("epoch")
    if type(step) is not int:
        step = about.step if numbered is None else int(numbered[1])
    if isinstance(epoch, float) and epoch.is_integer():
        epoch = int(epoch)
    left = [f"{name} is not taken over" for name in found.left]
    return made, replace(about, step=step, epoch=epoch if type(epoch) is int else about.epoch, notes=(*left,))


def _of_pickles(found: Folder) -> tuple[Image, About]:
    from asyncckpt.convert import torch_file
    from asyncckpt.convert.arranged import whole
    from asyncckpt.convert.of_state import image_of, tensors_of

    about = About()
    if found.is_pickled:
        model = {name: value for file in found.weights.values() for name, value in torch_file.read(file).items()}
    else:
        read = weights(found.weights)
        model, about = tensors_of(read), read.about
    parts = {part: torch_file.read(file) for part, file in found.parts.items()}
    extra = {"extra": {KEPT: dict(found.documents)}} if found.documents else {}
    return image_of(whole({"model": model, **parts, **extra})), about


def _with_torch(path: Path, kind: Kind) -> tuple[Image, About, Kind]:
    from asyncckpt.convert.arranged import LIGHTNING, arranged, lightning
    from asyncckpt.convert.of_state import image_of

    made: Arranged
    if kind == "dcp":
        from asyncckpt.convert import dcp

        made = arranged(dcp.read(path), str(path))
    else:
        from asyncckpt.convert import torch_file

        found = torch_file.read(path)
        if isinstance(found, dict) and LIGHTNING in found:
            kind = "lightning"
        made = (lightning if kind == "lightning" else arranged)(found, str(path))
    return image_of(made.state), made.about, kind
