"""Crafted manifests: each field of one replaced by nonsense, its digest right: damage, and nothing else."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format.sealed import seal, sealed_digest, unseal
from asyncckpt.restores.restoring import read
from asyncckpt.storage import LocalStorage, MemoryStorage

Place = tuple[str | int, ...]
GONE = object()
NONSENSE = (None, -1, "x", [], {}, 10**9, GONE)


class Views:
    """Values, a tensor in another order of memory, and one that shares its bytes."""

    def __init__(self) -> None:
        self.base = torch.arange(6.0).view(2, 3).t()

    def state_dict(self) -> dict[str, Any]:
        return {"pair": (1, 2.0), "base": self.base, "view": self.base[1:]}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where something stands in nested JSON."""
    if place:
        yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def spoiled(fields: dict[str, Any], place: Place, nonsense: object) -> bytes:
    """The manifest with `nonsense` at `place`, sealed as if nothing was wrong."""
    fields = copy.deepcopy(fields)
    at: Any = fields
    for key in place[:-1]:
        at = at[key]
    if nonsense is GONE:
        del at[place[-1]]
    else:
        at[place[-1]] = nonsense
    return seal(fields)


def test_nonsense_in_any_field_of_a_manifest_is_damage_or_harmless(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path / "run", model=nn.Linear(4, 4), extra={"views": Views()}) as ckpt:
        ckpt.save(1).wait()

    async def act() -> tuple[int, int]:
        disk, store = LocalStorage(tmp_path / "run"), MemoryStorage()
        async for found in disk.list():
            await store.put(found.key, [await disk.get(found.key)])
        (checkpoint,) = (await Catalog(store).listing()).checkpoints
        fields = unseal(await store.get(checkpoint.manifest.key), "it")
        fields = {name: value for name, value in fields.items() if name not in ("digest", "format")}
        tried = damaged = 0
        for place in list(places(fields)):
            for nonsense in NONSENSE:
                data = spoiled(fields, place, nonsense)
                ref = replace(checkpoint.manifest, length=len(data), digest=sealed_digest(data))
                await store.put(ref.key, [data])
                tried += 1
                try:
                    await read(Catalog(store), replace(checkpoint, manifest=ref))
                except (CheckpointCorruptError, UnsupportedFormat):
                    damaged += 1
        return tried, damaged

    tried, damaged = asyncio.run(act())
    assert tried > 1000
    assert damaged > tried / 2
