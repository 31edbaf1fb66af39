"""The configurations of one project: loaded, put together, written."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from asyncckpt.errors import ConfigurationError
from asyncckpt.launch.config import files
from asyncckpt.launch.config.environment import Composed, Written, as_written
from asyncckpt.launch.config.references import composed
from asyncckpt.launch.config.schema import ExperimentConfig
from asyncckpt.launch.config.validation import experiment

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""A file, or what was read from one."""


class ConfigurationManager:
    """Reads and writes the configurations of the project in `project_root`, whose own are in `config_dir`.

    A relative path is one in the project, or else one in `config_dir`, by default ``configs``.
    """

    def __init__(self, project_root: str | os.PathLike[str], config_dir: str | os.PathLike[str] | None = None) -> None:
        self.project_root = Path(project_root)
        self.config_dir = self.project_root / (config_dir if config_dir is not None else "configs")
        self._read: dict[Path, tuple[bytes, dict[str, Any]]] = {}
        self._written: Written = {}

    def load_config(
        self, config_path: str | os.PathLike[str], validate: bool = True, use_cache: bool = True
    ) -> dict[str, Any]:
        """What a file says, with its references looked up; yours to change.

        With `validate` it is what the schema makes of it: numbers are numbers, names are ours, defaults are there.
        `use_cache`: a file whose bytes are still the same is not parsed again. Raises `ConfigurationError`, and
        `ValidationError` with every problem.
        """
        path = self._found(config_path)
        found = self._composed(path, use_cache)
        if validate:
            config = experiment(found.values, str(path), found.written)
            found = Composed(files.as_plain(config), config.written)
        return self._remembered(found)

    def read(self, config_path: str | os.PathLike[str]) -> dict[str, Any]:
        """What a file says, its references as they stand; yours to change. Raises `ConfigurationError`."""
        return self._values(self._found(config_path), True)

    def load_experiment(self, config_path: str | os.PathLike[str]) -> ExperimentConfig:
        """`load_config` as an object of the schema."""
        path = self._found(config_path)
        found = self._composed(path, True)
        return experiment(found.values, str(path), found.written)

    def save_config(
        self, config: Mapping[str, Any] | ExperimentConfig, output_path: str | os.PathLike[str], format: str = "yaml"
    ) -> None:
        """Write a configuration, whole or not at all; ``load_config(output_path)`` reads it back.

        What was ``${VAR}`` where it was loaded is that in the file, and no value of the environment. ``${`` in texts of
        an `ExperimentConfig` means itself; in a mapping that was not loaded here it is a reference, as in a file.
        `format`: yaml or json. Raises `ConfigurationError` for a value that no file can say, by its path.
        """
        is_ours = isinstance(config, ExperimentConfig)
        if not is_ours and not isinstance(config, Mapping):
            raise ConfigurationError(f"{config!r} is no configuration: give a mapping, or an ExperimentConfig")
        written = config.written if isinstance(config, ExperimentConfig) else self._written
        said = as_written(files.as_plain(config), written, is_literal=is_ours)
        files.write(self.project_root / output_path, said, format)

    def compose_configs(
        self,
        base_config: Source,
        overrides: Sequence[Source] | None = None,
        parameter_overrides: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """`base_config`, the `overrides` over it in their order, and then `parameter_overrides` by dotted path.

        Sections are merged; lists and single values, and all that a dotted path names, are replaced. Raises
        `ConfigurationError`; to validate what comes out is another call, ``experiment(values)``.
        """
        if isinstance(overrides, str | os.PathLike | Mapping):
            raise ConfigurationError(f"overrides is {overrides!r}: give a list, [{overrides!r}]")
        layers = [self._layer(each) for each in (base_config, *(overrides or ()))]
        return self._remembered(composed(layers, parameter_overrides or {}))

    def _composed(self, path: Path, use_cache: bool) -> Composed:
        try:
            return composed([self._values(path, use_cache)], {})
        except ConfigurationError as error:
            if str(path) in str(error):
                raise
            raise ConfigurationError(f"{path}: {error}") from error

    def _remembered(self, found: Composed) -> dict[str, Any]:
        self._written |= found.written
        return found.values

    def _layer(self, source: Source) -> Mapping[str, Any]:
        if isinstance(source, Mapping):
            return source
        if not isinstance(source, str | os.PathLike):
            raise ConfigurationError(f"{source!r} is no configuration: give a mapping, or the path of a file")
        return self.read(source)

    def _found(self, given: str | os.PathLike[str]) -> Path:
        places = list(dict.fromkeys((self.project_root / given, self.config_dir / given)))
        for place in places:
            if place.is_file():
                return place
        raise ConfigurationError(f"there is no configuration {' or '.join(map(str, places))}")

    def _values(self, path: Path, use_cache: bool) -> dict[str, Any]:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error}") from error
        kept = self._read.get(path)
        # The bytes, not the time: a file that was written twice within one tick of the clock has one time.
        if not use_cache or kept is None or kept[0] != data:
            kept = self._read[path] = (data, files.read(path, data))
        return copy.deepcopy(kept[1])
