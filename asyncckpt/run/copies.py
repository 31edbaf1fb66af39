"""Copies: the configuration in the run's root, the file as it stands and what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.run.configuration import Configuration
from asyncckpt.run.files import got
from asyncckpt.run.identity import encoded
from asyncckpt.storage.base import Storage

_NUMBERED = re.compile(r"config(?:-(\d+))?\.(?:yml|toml|txt|json|original\.json)")


async def copied(storage: Storage, config: Configuration, about: Mapping[str, Any]) -> str | None:
    """Keep `config`, with what is to be said `about` it; returns the key of its JSON, None if it is there already.

    The first is never overwritten: a changed one is kept under the next number.
    """
    keys = [info.key async for info in storage.list("config") if _NUMBERED.fullmatch(info.key)]
    if await _is_kept(storage, config, keys):
        return None
    number = 1 + max((int(_number(key)) for key in keys), default=0)
    if config.file is not None:
        await storage.put(numbered(config.name, number), [config.file])
    key = numbered("config.json", number)
    await storage.put(key, [encoded({**about, "config": dict(config.plain)})])
    return key


async def _is_kept(storage: Storage, config: Configuration, keys: list[str]) -> bool:
    for key in keys:
        ending = key.partition(".")[2]
        if config.file is not None:
            if ending == config.name.partition(".")[2] and await got(storage, key) == config.file:
                return True
        elif ending == "json" and await _says(storage, key, config.plain):
            return True
    return config.file is None and not config.plain and bool(keys)  # a start that gave none has changed nothing


async def _says(storage: Storage, key: str, plain: Mapping[str, Any]) -> bool:
    try:
        found = json.loads(await got(storage, key) or b"{}")
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("config") == plain


def _number(key: str) -> str:
    found = _NUMBERED.fullmatch(key)
    return (found and found[1]) or "1"


def numbered(name: str, number: int) -> str:
    """``config.yml``, ``config-2.yml``, and so on."""
    stem, dot, ending = name.partition(".")
    return name if number == 1 else f"{stem}-{number}{dot}{ending}"


async def amended(storage: Storage, key: str, more: Mapping[str, Any]) -> None:
    """Say `more` in the JSON at `key`; what a user's hand has damaged stays as it is. Raises `StorageError`."""
    data = await got(storage, key)
    try:
        found = {} if data is None else json.loads(data)
    except ValueError as error:
        raise CheckpointCorruptError(f"{storage.url}/{key} is damaged ({error}): put a copy back") from error
    changed = {**found, **more}
    if changed != found:
        await storage.put(key, [encoded(changed)])
