"""Hugging Face: what lies beside the weights in such a folder: an index where there are several files, and a config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from asyncckpt.convert.weights import File
from asyncckpt.errors import ObjectNotFound
from asyncckpt.format.contents import Contents
from asyncckpt.format.sealed import Json
from asyncckpt.format.tagged import SHARED, parts, tagged
from asyncckpt.storage.base import Storage

INDEX: Final = "model.safetensors.index.json"
CONFIG: Final = "config.json"

KEPT: Final = "huggingface"
"""The extra under which an import keeps the files of a folder that are JSON, by their names."""


def shard_name(number: int, count: int) -> str:
    """As Hugging Face numbers them."""
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def index(files: Sequence[File], size: int) -> bytes:
    """Which tensor is in which file; `size` is that of all tensors, in bytes."""
    where = {name: file.name for file in files for name in file.starts}
    document = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
    return (json.dumps(document, indent=2) + "\n").encode()


async def config(storage: Storage, contents: Contents, given: bytes | None) -> bytes | None:
    """A model's configuration: what was `given`, what an import has kept, or what the run has; None where nobody knows.

    The run's own ``config.json`` counts where it is one of Hugging Face, which names a ``model_type``, or holds one.
    """
    if given is not None:
        return given
    if (kept := _kept(contents)) is not None:
        return _document(kept)
    try:
        data = bytes(await storage.get(CONFIG))
        found = json.loads(data)
    except (ObjectNotFound, ValueError):
        return None
    if _is_config(found):
        return data
    inner = _first_config(found)
    return None if inner is None else _document(inner)


def _document(found: Mapping[str, Any]) -> bytes:
    return (json.dumps(found, indent=2) + "\n").encode()


def _is_config(found: object) -> bool:
    return isinstance(found, dict) and isinstance(found.get("model_type"), str)


def _first_config(found: object) -> dict[str, Any] | None:
    """In what a run writes down: the configuration of a training, or that of the model in it."""
    whole = found.get("config") if isinstance(found, dict) else None
    inner = whole.get("model") if isinstance(whole, dict) else None
    return next((one for one in (whole, inner) if isinstance(one, dict) and _is_config(one)), None)


def _kept(contents: Contents) -> dict[str, Any] | None:
    value: Json = contents.values.get(SHARED)
    for name in ("extra", KEPT, CONFIG):
        value = dict(parts(*tagged(value)) or ()).get(name)
    found = untagged(value)
    return found if isinstance(found, dict) and _is_config(found) else None


def tagged_json(value: Any) -> Json:
    """A value out of a JSON document as ``asyncckpt.state.values`` has it, which needs torch."""
    if isinstance(value, float):
        return {"$float": repr(value)}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 53:
        return {"$int": hex(value)}
    if isinstance(value, list):
        return [tagged_json(item) for item in value]
    if isinstance(value, dict):
        return {"$dict": [[key, tagged_json(item)] for key, item in value.items()]}
    found: Json = value
    return found


def untagged(value: Json) -> Any:
    """The inverse of `tagged_json`; what it never made stands as it is."""
    tag, content = tagged(value)
    match tag:
        case "$float":
            return float(content)
        case "$int":
            return int(content, 16)
        case "$list" | "$tuple":
            return [untagged(item) for item in content]
        case "$dict":
            return {key: untagged(item) for key, item in content}
    return value
