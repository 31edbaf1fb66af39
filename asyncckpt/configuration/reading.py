"""Reading a configuration: the file that a training was started with, or what was read from it, and what it says."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from asyncckpt.configuration import yaml_text
from asyncckpt.configuration.overrides import Overrides, by_path, overridden
from asyncckpt.configuration.plain import Plain, complaints_of, few

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | object
"""A file, or what was read from one: a mapping, a dataclass, an argparse namespace, an object of pydantic."""

_NAMES = {".yml": "config.yml", ".yaml": "config.yml", ".json": "config.original.json", ".toml": "config.toml"}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a training was told as JSON, `plain` with secrets masked and `whole` with them; and the `file` itself."""

    plain: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict, repr=False)
    file: bytes | None = field(default=None, repr=False)
    name: str = "config.yml"
    """What a copy of the file is called."""
    problem: str | None = None
    """Why nothing in it is known, a sentence; it stops no training."""
    odd: tuple[str, ...] = ()
    """The paths of what could not be said."""
    secrets: tuple[str, ...] = ()
    """The paths of what is masked in `plain`."""
    added: tuple[str, ...] = ()
    """The paths that an override has, and the configuration had not."""

    def at(self, path: str) -> Any:
        """The value at a dotted `path`, or None."""
        found: Any = self.whole
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    @property
    def complaints(self) -> tuple[str, ...]:
        """What a person should know of it."""
        new = f"{few(self.added)}: overridden, but not in the configuration, and added to it"
        return *filter(None, [self.problem]), *complaints_of(self.odd), *([new] if self.added else [])


def configuration(source: Source | None, overrides: Overrides = ()) -> Configuration:
    """Read a configuration, with `overrides` over it, see `asyncckpt.configuration.overrides`.

    One that is not there or cannot be understood has a `problem`, and says nothing. Raises `ConfigurationError` for an
    override that cannot be put, and `ModuleNotFoundError`, naming the extra, for a YAML file where no reader of YAML is
    installed.
    """
    found = _read(source)
    if not (given := by_path(overrides)):
        return found
    values, added = overridden(found.whole, given)
    made = _understood(values)
    return replace(
        found,
        plain=made.plain,
        whole=made.whole,
        secrets=made.secrets,
        odd=found.odd + made.odd,
        added=() if source is None else added,
    )


def _read(source: Source | None) -> Configuration:
    if source is None:
        return Configuration()
    if not isinstance(source, str | os.PathLike):
        return _understood(source)
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        return Configuration(problem=f"the configuration {path} cannot be read: {error}")
    name = _NAMES.get(path.suffix.lower(), "config.txt")
    try:
        values = parsed(path, data)
    except ValueError as error:
        problem = f"nothing in the configuration {path} is understood: {error}"
        return Configuration(file=data, name=name, problem=problem)
    return replace(_understood({} if values is None else values), file=data, name=name)


def parsed(path: Path, data: bytes) -> Any:
    """What `data`, the file at `path`, says, by the ending of its name; None where it is empty. Raises `ValueError`.

    Raises `ModuleNotFoundError`, naming the extra, where no reader of YAML is installed.
    """
    match path.suffix.lower():
        case ".json":
            return json.loads(data) if data.strip() else None
        case ".toml":
            return tomllib.loads(data.decode()) or None
        case ".yml" | ".yaml":
            return _yaml(path, data)
        case other:
            raise ValueError(f"a configuration is .yml, .yaml, .json or .toml, not {other!r}")


def _yaml(path: Path, data: bytes) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ModuleNotFoundError(f"{path} needs a reader of YAML ({error}): pip install 'asyncckpt[yaml]'") from error
    try:
        return yaml.load(data, yaml_text.loader())  # noqa: S506 -- a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML ({error})") from error


def _understood(values: Any) -> Configuration:
    masking = Plain()
    plain, whole = masking.of(values), Plain(masked=False).of(values)
    if not isinstance(plain, dict) or not isinstance(whole, dict):
        plain, whole = {"value": plain}, {"value": whole}
    return Configuration(plain, whole, odd=tuple(masking.odd), secrets=tuple(masking.secrets))
