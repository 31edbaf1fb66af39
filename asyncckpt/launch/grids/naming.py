"""Naming: what each experiment of a search is called.

A name is one that every file system takes, at most `LONGEST` characters, and no two of a search differ in case alone.
It depends on the parameters and not on the process that makes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from asyncckpt.launch.config.files import as_plain

LONGEST = 100
"""Characters: a folder of that name, and files named after it, are well below every file system's 255."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.+=_-]+")
_OTHER = re.compile(r"true|false|none|[-+.]?\d.*", re.IGNORECASE)


class NamingStrategy(Enum):
    """How an experiment is named after its parameters."""

    HASH_BASED = "hash_based"
    DESCRIPTIVE = "descriptive"
    SEQUENTIAL = "sequential"

    HASH = "hash_based"  # noqa: PIE796 -- another word for it
    PARAMETER = "descriptive"  # noqa: PIE796


class Naming:
    """Names the experiments of one search, in their order, after `base`.

    `existing`: names of earlier searches, after which SEQUENTIAL goes on counting; `kept`: what it calls the
    combinations that it has named already, by their `key`.
    """

    def __init__(
        self,
        strategy: NamingStrategy,
        base: str,
        existing: Iterable[str] = (),
        kept: Mapping[str, str] | None = None,
    ) -> None:
        self._kept = dict(kept or {})
        self._strategy = strategy
        self._base = safe(base)[: LONGEST // 2] or "experiment"
        self._given: set[str] = set()
        numbered = re.compile(re.escape(self._base) + r"_(\d+)")
        self._number = max((int(found[1]) for name in existing if (found := numbered.fullmatch(name))), default=0)

    def name(self, parameters: Mapping[str, Any], grid: str = "") -> str:
        """The name of the next experiment."""
        return self._unlike_others(self._plainly(parameters, grid))

    def _plainly(self, parameters: Mapping[str, Any], grid: str) -> str:
        if self._strategy is NamingStrategy.DESCRIPTIVE:
            return self._described(parameters)
        if self._strategy is NamingStrategy.HASH_BASED:
            return f"{self._base}_{digest(parameters)}"
        if kept := self._kept.pop(key(grid, parameters), None):
            return kept
        self._number += 1
        return f"{self._base}_{self._number:04d}"

    def _described(self, parameters: Mapping[str, Any]) -> str:
        last = Counter(key.rpartition(".")[2] for key in parameters)
        said = [self._base]
        whole = True
        for key, value in parameters.items():
            word = key.rpartition(".")[2]
            text, exact = _short(value)
            said.append(f"{safe(word if last[word] == 1 else key)}={text}")
            whole = whole and exact
        name = "_".join(said)
        if whole and len(name) <= LONGEST:
            return name
        mark = f"_{digest(parameters)[:8]}"
        return name[: LONGEST - len(mark)].rstrip("._-=") + mark

    def _unlike_others(self, name: str) -> str:
        found, number = name, 1
        while found.casefold() in self._given:
            number += 1
            found = f"{name[: LONGEST - 6]}-{number}"
        self._given.add(found.casefold())
        return found


def safe(text: str) -> str:
    """`text` with what a file name or a shell could trip over replaced."""
    return _UNSAFE.sub("-", text).strip(".-+_=")


def folder_of(name: str) -> str:
    """What the folder of an experiment of this name is called: the same, where a folder can be."""
    found = safe(name)[:LONGEST]
    return name if found == name else f"{found[: LONGEST - 9]}-{digest({'name': name})[:8]}"


def digest(parameters: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that say which parameters these are, whatever their order."""
    text = json.dumps(as_plain(dict(parameters)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def key(grid: str, parameters: Mapping[str, Any]) -> str:
    """The same for the same combination of the same grid, in every search."""
    return digest({"grid": grid, "parameters": parameters})


def _short(value: Any) -> tuple[str, bool]:
    """A short text for a value, and whether no other value has the same."""
    plain = as_plain(value)
    if plain is None or isinstance(plain, bool):  # before int, which a bool is too
        return str(plain).lower(), True
    if isinstance(plain, float):
        short = f"{plain:.4g}"
        return (short if re.search("[.e]", short) else f"{short}.0"), float(short) == plain
    if isinstance(plain, int):
        return str(plain), True
    text = plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True)
    return safe(text)[:24], safe(text)[:24] == text and not _OTHER.fullmatch(text)
