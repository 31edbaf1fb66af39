"""One grid: parameters, the values that each of them takes, and all combinations of those."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from asyncckpt.configuration.overrides import words
from asyncckpt.errors import ConfigurationError
from asyncckpt.launch.config.aliases import called
from asyncckpt.launch.config.files import as_plain


class ParameterGrid:
    """Every combination of the values of its parameters, which are dotted paths into a configuration.

    A grid without parameters has no combination.
    """

    def __init__(self, name: str, description: str = "") -> None:
        self.name = name
        self.description = description
        self._values: dict[str, list[Any]] = {}

    def add_parameter(self, key: str, values: Sequence[Any]) -> None:
        """Vary what is at the dotted path `key`; raises `ConfigurationError` where it cannot be varied by `values`.

        Values become what a configuration file says for them: of a tuple a list, of a path a text, of numpy's numbers
        numbers.
        """
        words(key)
        if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
            # What has no order would be counted in another one by the next process.
            raise ConfigurationError(f"grid {self.name}: {key} takes a list of values, not {values!r}")
        if called(key) == "experiment_name":
            raise ConfigurationError(f"grid {self.name}: {key} is made of what varies; vary something else")
        if not (held := as_plain(list(values), f"grid {self.name}: {key}")):
            raise ConfigurationError(f"grid {self.name}: {key} has no values; give at least one")
        if key in self._values:
            raise ConfigurationError(f"grid {self.name}: {key} is there already; give it all of its values at once")
        check_apart([*self._values, key], f"grid {self.name}")
        for other in self._values:
            if called(other) == called(key):
                raise ConfigurationError(f"grid {self.name}: {key} and {other} mean the same; vary one of them")
        self._values[key] = held

    def add_nested_parameter(self, key_path: str, values: Sequence[Any]) -> None:
        """The same as `add_parameter`."""
        self.add_parameter(key_path, values)

    @property
    def keys(self) -> tuple[str, ...]:
        """The dotted paths, in the order in which they were added."""
        return tuple(self._values)

    def get_parameter_count(self) -> int:
        """How many combinations there are."""
        return math.prod(map(len, self._values.values())) if self._values else 0

    def generate_permutations(self) -> Iterator[dict[str, Any]]:
        """Each combination as dotted paths and their values, yours to change; the last parameter varies fastest."""
        if self._values:
            for values in itertools.product(*self._values.values()):
                yield dict(zip(self._values, copy.deepcopy(values), strict=True))


def check_apart(keys: Iterable[str], where: str) -> None:
    """Raises `ConfigurationError` where one path lies within what another one replaces."""
    known = set(keys)
    for key in sorted(known):
        parts = key.split(".")
        for count in range(1, len(parts)):
            if (above := ".".join(parts[:count])) in known:
                raise ConfigurationError(
                    f"{where}: {key} lies in {above}, which is varied as a whole; vary one of them"
                )
