"""Configuration: all of it for trackers to show, as a run writes it down; or where it cannot be read, a part."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from asyncckpt.configuration.plain import masked
from asyncckpt.configuration.reading import Configuration, configuration

logger = logging.getLogger("asyncckpt")

_CHOSEN = (
    "epochs", "batch_size", "optimizer", "lr", "learning_rate", "weight_decay", "scheduler", "warmup", "warmup_steps",
    "mixed_precision", "gradient_accumulation_steps", "gradient_clipping", "max_grad_norm", "type",
)  # fmt: skip
"""What is shown of a configuration that was read without its file."""


def whole_config(
    source: Mapping[str, Any] | str | os.PathLike[str], fallback: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The whole configuration in `source`, a mapping or a YAML, JSON or TOML file, as JSON values without secrets.

    It is what a run of that configuration has in its ``config.json``. A file that cannot be read is a warning; then it
    is what is usually asked for of `fallback`, flat.
    """
    try:
        found = configuration(source)
    except ModuleNotFoundError as error:
        found = Configuration(problem=str(error))
    if found.problem is not None:
        logger.warning("%s: trackers are told a part of it", found.problem)
        return flattened(masked(fallback or {}))
    for complaint in found.complaints:
        logger.warning("%s", complaint)
    return dict(found.plain)


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What is usually asked for of a nested configuration, under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{prefix}{name}."))
        elif name in _CHOSEN:
            flat[f"{prefix}{name}"] = value
    return flat
