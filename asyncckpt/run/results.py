"""Results: what came out of a run, in ``results.json``; and how that and its configuration are read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any

from asyncckpt.configuration.plain import Plain
from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.coded_file import unpacked
from asyncckpt.run.copies import config_key
from asyncckpt.run.files import Files
from asyncckpt.run.identity import encoded
from asyncckpt.storage.base import Storage

KEY = "results.json"


def results(
    run_id: str,
    final_metrics: Mapping[str, Any],
    best_checkpoint: str | None,
    generation_samples: Iterable[str] | None,
) -> bytes:
    """The file; what is None is not in it. Tensors and arrays of one number are numbers."""
    found: dict[str, Any] = {
        "run_id": run_id,
        "timestamp": datetime.now().astimezone().isoformat(timespec="seconds"),
        "final_metrics": dict(final_metrics),
    }
    if best_checkpoint is not None:
        found["best_checkpoint"] = best_checkpoint
    if generation_samples is not None:
        found["generation_samples"] = list(generation_samples)
    return encoded(Plain(masked=False).of(found))


def load_results(
    root: str | os.PathLike[str] | Storage, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What ``results.json`` of the run in `root` says; empty where there is none. Raises `CheckpointCorruptError`."""
    return _read(root, storage_options, _results_key)


def load_config(
    root: str | os.PathLike[str] | Storage, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What ``config.json`` of the run in `root` says: its id, its code version, its ``config``, model and hardware.

    Empty where there is none. One that is encrypted has its secrets. Raises `CheckpointCorruptError`, `KeyUnavailable`
    where it is encrypted and its key is not registered, and `StorageError` for a root that cannot be read.
    """
    return _read(root, storage_options, config_key)


def _read(
    root: str | os.PathLike[str] | Storage,
    options: Mapping[str, Any] | None,
    named: Callable[[Storage], Coroutine[Any, Any, str | None]],
) -> dict[str, Any]:
    files = Files(root, options)
    try:
        key = files.do(named)
        data = None if key is None else files.get(key)
    finally:
        files.close()
    return {} if data is None or key is None else parsed(unpacked(data, key), f"{files.storage.url}/{key}")


async def _results_key(_: Storage) -> str:
    return KEY


def parsed(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; raises `CheckpointCorruptError` naming `what`."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise CheckpointCorruptError(f"{what} is damaged ({error}): put a copy back") from error
    if not isinstance(found, dict):
        raise CheckpointCorruptError(f"{what} is damaged: it is no JSON object")
    return found
