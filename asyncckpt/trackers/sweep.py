"""Sweep: what a W&B sweep has chosen for this run, put into its configuration."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any


def with_sweep(config: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A copy of `config` with what the sweep of the active W&B run has `chosen`; as it was where there is no sweep.

    A parameter names its place by dots or slashes (``optimizer.lr``), by nested mappings, or by its last name alone
    where there is one of that name. Raises `ValueError` where there are several, and for a path through a value.
    """
    result: dict[str, Any] = copy.deepcopy(dict(config))
    for name, value in (chosen_by_sweep() if chosen is None else chosen).items():
        _put(result, name, value)
    return result


def chosen_by_sweep() -> Mapping[str, Any]:
    """The configuration of the active W&B run, where it is one of a sweep; else nothing."""
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is None or not run.sweep_id:
        return {}
    return {name: value for name, value in dict(run.config).items() if not name.startswith("_")}


def _put(config: MutableMapping[str, Any], name: str, value: Any) -> None:
    if isinstance(value, Mapping) and isinstance(config.get(name), MutableMapping):
        for inner, entry in value.items():
            _put(config[name], inner, entry)
        return
    path = [name] if name in config else name.replace("/", ".").split(".")
    if len(path) == 1 and name not in config:
        path = _only(list(_places(config, name)), name)
    *above, last = path
    for part in above:
        config = config.setdefault(part, {})
        if not isinstance(config, MutableMapping):
            raise ValueError(f"the sweep's parameter {name!r} leads through {part!r}, which is a value")
    config[last] = value


def _places(config: Mapping[str, Any], name: str) -> Iterator[list[str]]:
    for key, value in config.items():
        if key == name:
            yield [key]
        if isinstance(value, Mapping):
            yield from ([key, *rest] for rest in _places(value, name))


def _only(places: list[list[str]], name: str) -> list[str]:
    if len(places) > 1:
        several = ", ".join(".".join(place) for place in places)
        raise ValueError(f"the sweep's parameter {name!r} may be any of {several}: name one of them in the sweep")
    return places[0] if places else [name]
