"""References: ``${VAR}`` of the environment, ``${model.hidden_size}`` of the configuration itself, and its composition.

A name in capitals is a variable of the environment, ``${VAR:-text}`` has a text for where it is not set; any other is
the dotted path of a value, looked up by OmegaConf when everything is put together. ``\\${`` is no reference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from asyncckpt.configuration.overrides import put
from asyncckpt.errors import ConfigurationError
from asyncckpt.extras import imported
from asyncckpt.launch.config.environment import Composed, Environment


def composed(layers: Iterable[Mapping[str, Any]], dotted: Mapping[str, Any]) -> Composed:
    """The `layers` on top of each other, then the `dotted` paths, then all references looked up.

    Mappings are merged, everything else is replaced; nothing given is changed. Raises `ConfigurationError`.
    """
    environment = Environment()
    merged = _merged([dict(environment.hidden(layer)) for layer in layers])
    for path, value in dotted.items():
        put(merged, path, copy.deepcopy(environment.hidden(value, path)))
    return environment.revealed(looked_up(merged))


def has_references(value: Any) -> bool:
    """Whether a text in `value` is looked up elsewhere."""
    match value:
        case str():
            return "${" in value
        case Mapping():
            return any(map(has_references, value.values()))
        case list() | tuple():
            return any(map(has_references, value))
    return False


def _merged(layers: list[dict[str, Any]]) -> dict[str, Any]:
    omegaconf = _omegaconf()
    try:
        merged = omegaconf.OmegaConf.merge(*layers)
        found: dict[str, Any] = omegaconf.OmegaConf.to_container(merged, resolve=False)
    except (omegaconf.errors.OmegaConfBaseException, ValueError) as error:
        raise ConfigurationError(f"the configurations cannot be put together: {error}") from error
    return found


def looked_up(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with what their references to each other lead to; raises `ConfigurationError` where that is nowhere."""
    omegaconf = _omegaconf()
    try:
        config = omegaconf.OmegaConf.create(values)
        found: dict[str, Any] = omegaconf.OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (omegaconf.errors.OmegaConfBaseException, ValueError) as error:
        raise ConfigurationError(f"a reference of the configuration leads nowhere: {error}") from error
    return found


def _omegaconf() -> Any:
    return imported("omegaconf", "launch", "putting configurations together needs OmegaConf", ConfigurationError)
