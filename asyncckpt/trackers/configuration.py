"""Configuration: all of it, as plain values, for trackers to show; secrets are left out."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asyncckpt.trackers.base import needed

logger = logging.getLogger("asyncckpt")

MASK = "***"

_SECRET = re.compile(r"(?i)(.*[_\-.])?(api_?key|\w+[_-]key|secret|token|password|passwd|passphrase|credentials?)")
_NO_SECRET = re.compile(r"(?i)(.*[_\-.])?(pad|bos|eos|unk|sep|cls|mask|sort|primary|foreign|group)_(token|key)")
"""Words of tokenizers and of tables that end like secrets."""
_CHOSEN = (
    "epochs", "batch_size", "optimizer", "lr", "learning_rate", "weight_decay", "scheduler", "warmup", "warmup_steps",
    "mixed_precision", "gradient_accumulation_steps", "gradient_clipping", "max_grad_norm", "type",
)  # fmt: skip
"""What is shown of a configuration that was read without its file."""


def whole_config(
    source: Mapping[str, Any] | str | os.PathLike[str], fallback: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The whole configuration in `source`, a mapping or a YAML or JSON file, as plain values without secrets.

    A file that cannot be read is a warning; then it is what is usually asked for of `fallback`, flat.
    """
    if isinstance(source, Mapping):
        return masked(source)
    try:
        found = _read(Path(source))
    except Exception as error:  # a parser's own, of whichever kind
        logger.warning("%s cannot be read as a configuration (%s): trackers are told a part of it", source, error)
        return flattened(masked(fallback or {}))
    return masked(found)


def _read(path: Path) -> Mapping[str, Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json":
        found = json.loads(text)
    else:
        found = needed("yaml", "yaml", f"{path}, a YAML file,").safe_load(text)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ValueError(f"it is a {type(found).__name__}, not a mapping")
    return found


def masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` as plain values, with ``***`` for what is a secret by its name, and for passwords in URLs."""
    return {str(name): _masked(str(name), value) for name, value in config.items()}


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, str) and value and _SECRET.fullmatch(name) and not _NO_SECRET.fullmatch(name):
        return MASK
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return masked({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return masked(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(name, entry) for entry in value]
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, str):
        return _without_password(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    item = getattr(value, "item", None)
    try:
        return str(value) if item is None else _plain(item())
    except (RuntimeError, TypeError, ValueError):
        return str(value)


def _without_password(text: str) -> str:
    if "://" not in text or "@" not in text:
        return text
    try:
        password = urlsplit(text).password
    except ValueError:
        return text
    return text.replace(f":{password}@", f":{MASK}@", 1) if password else text


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What is usually asked for of a nested configuration, under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{prefix}{name}."))
        elif name in _CHOSEN:
            flat[f"{prefix}{name}"] = value
    return flat
