"""Tuning: how patient and how wide an object store is; the ``asyncckpt`` entry of its storage options."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncckpt.errors import StorageError

_MIB = 1 << 20

MOST_PARTS = 9_000
"""Of one upload; stores take 10,000."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes are bytes, times seconds."""

    part_size: int = 8 << 20
    """Of an upload. An object that would have too many parts has bigger ones."""
    concurrency: int = 16
    """Requests in flight at most; fewer while the store says that it is too much."""
    memory: int = 40 << 20
    """Of copies of parts that are being sent, for each object."""
    range_size: int = 16 << 20
    """Of one ranged read. Where it is read to is there: only how many there are costs anything."""
    attempts: int = 8
    """For one request, the first included."""
    patience: float = 120.0
    """For one request: after that none of its attempts is made again."""
    deadline: float = 60.0
    """For one attempt, its bytes included."""
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    """Without a byte from the store."""
    pause: float = 0.1
    """Before the second attempt, about; it doubles with each."""

    def part_of(self, length: int | None) -> int:
        """The size of the parts of an object of `length` bytes, as far as that is known."""
        if length is None or length <= self.part_size * MOST_PARTS:
            return self.part_size
        return math.ceil(length / MOST_PARTS / _MIB) * _MIB

    def window(self, copied: int | None) -> int:
        """How many parts may be under way at once: those that are copied, of so many bytes, or such as need not be."""
        return self.concurrency if copied is None else max(1, min(self.concurrency, self.memory // copied))


def tuning_of(given: object, url: str) -> Tuning:
    """What `given` says; raises `StorageError` for what is not known or makes no sense."""
    known: dict[str, type[int] | type[float]] = typing.get_type_hints(Tuning)
    if not isinstance(given, Mapping) or not given.keys() <= known.keys():
        raise StorageError(f"{url}: storage_options['asyncckpt'] is a mapping of {', '.join(known)}, not {given!r}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not value > 0 or (known[name] is int and value != int(value)):
            raise StorageError(f"{url}: storage_options['asyncckpt'][{name!r}] = {value!r}: give a positive number")
        values[name] = known[name](value)
    tuning = Tuning(**values)
    if tuning.part_size < 5 << 20:
        raise StorageError(f"{url}: part_size={tuning.part_size}: stores take no parts below 5 MiB")
    return tuning
