"""Files: configurations as YAML and JSON, read as everybody means them and written so that they read back the same."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from asyncckpt.configuration import yaml_text
from asyncckpt.configuration.reading import parsed
from asyncckpt.errors import ConfigurationError
from asyncckpt.extras import imported

FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}


def read(path: Path, data: bytes) -> dict[str, Any]:
    """What a file says; raises `ConfigurationError` where it is broken, empty, or no mapping."""
    if _format(path) == "yaml":
        _yaml()
    try:
        values = parsed(path, data)
    except ValueError as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if values is None:
        raise ConfigurationError(f"{path} is empty")
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds {type(values).__name__}, where a mapping of names to values has to be")
    return values


def write(path: Path, values: object, form: str) -> None:
    """Write `values` whole or not at all, with the folders above. Raises `ConfigurationError`, and `OSError`."""
    if form not in FORMATS.values():
        raise ConfigurationError(f"format={form!r}: use yaml or json")
    if _format(path) != form:
        raise ConfigurationError(f"{path} would not be read as {form}: name it so, or use format={_format(path)!r}")
    plain = as_plain(values)
    if form == "json":
        text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    else:
        text = _yaml().dump(plain, Dumper=yaml_text.dumper(), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, with the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.draft")
    try:
        with draft.open("xb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def as_plain(value: object, path: str = "") -> Any:
    """`value` in what JSON and YAML have words for; raises `ConfigurationError` that names the path of the rest."""
    match value:
        case Enum():  # before int and str, which an Enum may be as well
            return as_plain(value.value, path)
        case float() if not math.isfinite(value):
            raise ConfigurationError(f"{path} is {value}, which not every reader of a configuration takes")
        case None | bool():
            return value
        case int() | float() | str():  # of numpy too, which YAML has no words for
            return int(value) if isinstance(value, int) else str(value) if isinstance(value, str) else float(value)
        case PurePath():
            return str(value)
        case Mapping():
            return {str(key): as_plain(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        case list() | tuple():
            return [as_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_plain({each.name: getattr(value, each.name) for each in dataclasses.fields(value)}, path)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a scalar of numpy or torch
        return as_plain(value.item(), path)
    raise ConfigurationError(f"{path or 'the value'} is a {type(value).__qualname__}, which no file can say")


def _format(path: Path) -> str:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ConfigurationError(f"{path}: a configuration is a .yaml, .yml or .json file") from None


def _yaml() -> Any:
    return imported("yaml", "launch", "a configuration in YAML needs PyYAML", ConfigurationError)
