"""Configuration: the file that a run was started with, as it stands, and what it says.

The file is kept byte for byte under ``config.yml`` (or its own ending), and what it says as ``config.json``. A start
that goes on with a changed one adds ``config-2.yml`` and ``config-2.json``: the first is never overwritten.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from asyncckpt.run.plain import Plain

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | object
"""A file, or what was read from one: a mapping, a dataclass, an argparse namespace, an object of pydantic."""

_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$")
_NAMES = {".yml": "config.yml", ".yaml": "config.yml", ".json": "config.original.json", ".toml": "config.toml"}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a run was started with as JSON, `plain` with secrets masked and `whole` with them; and the `file` itself."""

    plain: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict, repr=False)
    file: bytes | None = field(default=None, repr=False)
    name: str = "config.yml"
    """What the copy of the file is called."""
    complaints: tuple[str, ...] = ()
    """What a person should know of it; none of that stops a training."""

    def at(self, path: str) -> Any:
        """The value at a dotted `path`, or None."""
        found: Any = self.whole
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def configuration(source: Source | None) -> Configuration:
    """Read a configuration. One that is not there or cannot be read is a complaint, and the training goes on without.

    Raises `ModuleNotFoundError`, naming the extra, for a YAML file where no reader of YAML is installed.
    """
    if source is None:
        return Configuration()
    if not isinstance(source, str | os.PathLike):
        return _understood(source)
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        return Configuration(
            complaints=(f"the configuration {path} cannot be read ({error}): the run goes on without a copy of it",)
        )
    name = _NAMES.get(path.suffix.lower(), "config.txt")
    try:
        values = _parsed(data, path)
    except ValueError as error:
        complaint = f"{path} is copied as it is, but nothing in it is understood: {error}"
        return Configuration(file=data, name=name, complaints=(complaint,))
    found = _understood(values)
    complaints = found.complaints
    if secrets := _secrets(values):
        complaints += (
            f"{path} holds what looks like a secret ({_few(secrets)}), and is copied as it is: take it from the "
            "environment instead",
        )
    return replace(found, file=data, name=name, complaints=complaints)


def _understood(values: Any) -> Configuration:
    masked = Plain()
    plain, whole = masked.of(values), Plain(masked=False).of(values)
    odd = (f"the configuration holds what JSON cannot say, and names its type instead: {_few(masked.odd)}",)
    complaints = odd if masked.odd else ()
    if not isinstance(plain, dict) or not isinstance(whole, dict):
        return Configuration({"value": plain}, {"value": whole}, complaints=complaints)
    return Configuration(plain, whole, complaints=complaints)


def _secrets(values: Any) -> list[str]:
    looking = Plain()
    looking.of(values)
    return looking.secrets


def _few(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _parsed(data: bytes, path: Path) -> Any:
    """What the file says; an empty one says nothing. Raises `ValueError`."""
    match path.suffix.lower():
        case ".json":
            return json.loads(data) if data.strip() else {}
        case ".toml":
            return tomllib.loads(data.decode())
        case ".yml" | ".yaml":
            return _yaml(data, path)
        case other:
            raise ValueError(f"a configuration is .yml, .yaml, .json or .toml, not {other!r}")


def _yaml(data: bytes, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ModuleNotFoundError(f"{path} needs a reader of YAML ({error}): pip install 'asyncckpt[yaml]'") from error

    class Loader(yaml.SafeLoader):
        """Reads ``1e-8`` and ``1.5e8`` as the numbers that everybody means; YAML 1.1 wants a point and a sign."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    try:
        found = yaml.load(data, Loader=Loader)  # noqa: S506 -- a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML ({error})") from error
    return {} if found is None else found
