"""Copies: the configuration in the run's root.

The file is kept byte for byte under ``config.yml`` (or its own ending), and what it says as ``config.json``. A start
that goes on with a changed one adds ``config-2.yml`` and ``config-2.json``: the first is never overwritten. Where a
codec was asked for they are stored with that, and their names end in ``.zst``, ``.enc`` or ``.zst.enc``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from asyncckpt.configuration.plain import few
from asyncckpt.configuration.reading import Configuration
from asyncckpt.errors import CheckpointCorruptError, KeyUnavailable
from asyncckpt.format.codec import Codec
from asyncckpt.format.coded_file import SUFFIXES, codec_for, stored, unpacked
from asyncckpt.run.files import got
from asyncckpt.run.identity import encoded
from asyncckpt.storage.base import Storage

CONFIG = "config.json"

_NUMBERED = re.compile(r"config(?:-(\d+))?\.(yml|toml|txt|json|original\.json)((?:\.zst)?(?:\.enc)?)")


async def copied(storage: Storage, config: Configuration, about: Mapping[str, Any], codec: Codec) -> str | None:
    """Keep `config`, with what is to be said `about` it; returns the key of its JSON, None if it is there already.

    The first is never overwritten: a changed one is kept under the next number. What is encrypted holds secrets too.
    """
    said = dict(config.plain if codec.key is None else config.whole)
    keys = [info.key async for info in storage.list("config") if _NUMBERED.fullmatch(info.key)]
    if await _is_kept(storage, config, said, keys):
        return None
    number = 1 + max((int(_number(key)) for key in keys), default=0)
    if config.file is not None:
        await _put(storage, numbered(config.name, number) + codec.suffix, config.file, codec)
    key = numbered(CONFIG, number) + codec.suffix
    await _put(storage, key, encoded({**about, "config": said}), codec)
    return key


async def _is_kept(storage: Storage, config: Configuration, said: Mapping[str, Any], keys: list[str]) -> bool:
    """Whether a file and what it said are there: what was overridden is not in the file."""
    for number in {_number(key) for key in keys}:
        endings = {_parts(key)[1]: key for key in keys if _number(key) == number}
        file = endings.get(config.name.partition(".")[2])
        if config.file is not None and (file is None or await _held(storage, file) != config.file):
            continue
        if "json" in endings and await _says(storage, endings["json"], said):
            return True
    return config.file is None and not config.plain and bool(keys)  # a start that gave none has changed nothing


async def _says(storage: Storage, key: str, said: Mapping[str, Any]) -> bool:
    try:
        found = json.loads(await _held(storage, key) or b"{}")
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("config") == said


async def _held(storage: Storage, key: str) -> bytes | None:
    """What is in the file; None where it cannot be known: without its key, that is."""
    data = await got(storage, key)
    with suppress(KeyUnavailable, CheckpointCorruptError):
        return None if data is None else unpacked(data, key)
    return None


async def _put(storage: Storage, key: str, data: bytes, codec: Codec) -> None:
    await storage.put(key, list(stored([data], codec)))


def exposed(config: Configuration, codec: Codec) -> tuple[str, ...]:
    """What a person should know of secrets in the copy of a file, which is as the file is."""
    said = (
        f"{config.name} holds what looks like a secret ({few(config.secrets)}), since it is a copy of your own file: "
        "take it from the environment instead"
    )
    return (said,) if config.file is not None and config.secrets and codec.key is None else ()


def _parts(key: str) -> tuple[str, str]:
    """The number, and the ending without that of a codec."""
    found = _NUMBERED.fullmatch(key)
    return (found[1] or "1", found[2]) if found else ("1", "")


def _number(key: str) -> str:
    return _parts(key)[0]


def numbered(name: str, number: int) -> str:
    """``config.yml``, ``config-2.yml``, and so on."""
    stem, dot, ending = name.partition(".")
    return name if number == 1 else f"{stem}-{number}{dot}{ending}"


async def config_key(storage: Storage) -> str | None:
    """Which key the first configuration has, by what it is stored with; None where there is none."""
    there = {info.key async for info in storage.list(CONFIG)}
    return next((CONFIG + suffix for suffix in SUFFIXES if CONFIG + suffix in there), None)


async def amended(storage: Storage, more: Mapping[str, Any], codec: Codec) -> None:
    """Say `more` in the first configuration; what a user's hand has damaged stays as it is. Raises `StorageError`."""
    key = await config_key(storage) or CONFIG + codec.suffix
    data = await got(storage, key)
    what = f"{storage.url}/{key}"
    try:
        found = {} if data is None else json.loads(unpacked(data, key))
    except ValueError as error:
        raise CheckpointCorruptError(f"{what} is damaged ({error}): put a copy back") from error
    changed = {**found, **more}
    if changed != found:
        await _put(storage, key, encoded(changed), codec_for(Path(key)))
