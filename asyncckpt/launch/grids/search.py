"""A search: one base configuration, several grids over it, and an experiment for each combination of each of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asyncckpt.configuration.overrides import put
from asyncckpt.errors import ConfigurationError, ValidationError
from asyncckpt.launch.config.aliases import called, meant, renamed
from asyncckpt.launch.config.environment import Environment, as_written
from asyncckpt.launch.config.files import as_plain
from asyncckpt.launch.config.references import has_references, looked_up
from asyncckpt.launch.config.scalars import Wrong, member
from asyncckpt.launch.config.schema import ExperimentConfig
from asyncckpt.launch.config.validation import experiment
from asyncckpt.launch.grids.grid import ParameterGrid, check_apart
from asyncckpt.launch.grids.naming import Naming, NamingStrategy, key

logger = logging.getLogger("asyncckpt")


@dataclass(frozen=True, slots=True)
class Combination:
    """One experiment to be: its name, the grid that it is of, and what that varies."""

    name: str
    grid: str
    parameters: Mapping[str, Any]


class ParameterGridSearch:
    """Experiments that are `base_config` but for what grids vary; the base is copied, and stays as it is.

    `existing`: names that are taken, after which `NamingStrategy.SEQUENTIAL` goes on. `earlier`: what it has made in
    an earlier search; the same combination of the same grid, if it still makes the same experiment, keeps its name.
    Raises `ConfigurationError`.
    """

    def __init__(
        self,
        base_config: Mapping[str, Any] | ExperimentConfig,
        *,
        existing: Iterable[str] = (),
        earlier: Iterable[tuple[Combination, ExperimentConfig]] = (),
    ) -> None:
        values = copy.deepcopy({**base_config}) if isinstance(base_config, Mapping) else _written(base_config)
        self._environment = Environment()
        self._base: dict[str, Any] = self._environment.hidden(values)
        warnings, problems = renamed(self._base)
        if problems:
            raise ValidationError(f"the base configuration cannot be used: {problems}", problems)
        for warning in warnings:
            logger.warning("the base configuration: %s", warning)
        self._existing = tuple(existing)
        self._earlier = tuple(earlier)
        self._strategy = NamingStrategy.HASH_BASED
        self._grids: dict[str, ParameterGrid] = {}

    def add_grid(self, grid: ParameterGrid) -> None:
        """Explore `grid` too, for itself: grids are not multiplied. Raises `ConfigurationError` for a name twice."""
        if grid.name in self._grids:
            raise ConfigurationError(f"there is a grid {grid.name} already")
        self._grids[grid.name] = grid

    def create_grid(self, name: str, description: str = "") -> ParameterGrid:
        """A new grid that is explored as well; parameters can be added to it later."""
        grid = ParameterGrid(name, description)
        self.add_grid(grid)
        return grid

    def set_naming_strategy(self, strategy: NamingStrategy) -> None:
        """How experiments are named; by `NamingStrategy.HASH_BASED` if nothing is said. Raises `ConfigurationError`."""
        self._strategy = member(NamingStrategy, strategy, "naming")

    def __len__(self) -> int:
        """How many experiments there are."""
        return sum(grid.get_parameter_count() for grid in self._grids.values())

    def generate_experiments(self) -> Iterator[ExperimentConfig]:
        """Each experiment, made when it is asked for.

        Raises `ConfigurationError` at once for grids that contradict each other, and `ValidationError`, which names the
        experiment, where one cannot be.
        """
        return map(self.experiment, self.combinations())

    def combinations(self) -> Iterator[Combination]:
        """What `generate_experiments` makes experiments of."""
        check_apart({called(path) for grid in self._grids.values() for path in grid.keys}, "grids")
        base = self._environment.revealed({"": self._base.get("experiment_name") or "experiment"}).values[""]
        kept = {key(old.grid, old.parameters): old.name for old, made in self._earlier if self._is_still(old, made)}
        naming = Naming(self._strategy, str(base), self._existing, kept)
        return (
            Combination(naming.name(parameters, grid.name), grid.name, parameters)
            for grid in list(self._grids.values())
            for parameters in grid.generate_permutations()
        )

    def experiment(self, combination: Combination) -> ExperimentConfig:
        """The experiment of a combination; raises `ValidationError` that names it."""
        values = copy.deepcopy(self._base)
        where = f"experiment {combination.name} of grid {combination.grid} ({combination.parameters})"
        try:
            for path, value in combination.parameters.items():
                put(values, *meant(path, copy.deepcopy(self._environment.hidden(value, path))))
            values["experiment_name"] = combination.name
            if has_references(values):
                values = looked_up(values)
        except (ConfigurationError, Wrong) as error:
            raise ValidationError(f"{where} cannot be used: {error}", {"": str(error)}) from error
        found = self._environment.revealed(values)
        return experiment(found.values, where, found.written)

    def _is_still(self, earlier: Combination, made: ExperimentConfig) -> bool:
        """Whether a combination of an earlier search makes the experiment today that it has made then."""
        try:
            return bool(as_plain(self.experiment(earlier)) == as_plain(made))
        except ConfigurationError:
            return False


def _written(config: ExperimentConfig) -> dict[str, Any]:
    """A configuration as the values that a file of it would have."""
    found: dict[str, Any] = as_written(as_plain(config), config.written, is_literal=True)
    return found
