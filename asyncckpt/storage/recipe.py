"""Recipe: how another process makes the same storage, from a name of a function and one string."""

from __future__ import annotations

import importlib
from typing import NamedTuple, Protocol, runtime_checkable

from asyncckpt.storage.base import Storage


class Recipe(NamedTuple):
    """``module.function(argument)`` is the storage."""

    module: str
    function: str
    argument: str

    def __repr__(self) -> str:
        return f"Recipe({self.module}.{self.function})"  # the argument may hold secrets


@runtime_checkable
class Portable(Protocol):
    """A storage that another process can have too."""

    def recipe(self) -> Recipe | None:
        """How it is made there; None where it cannot be, after all."""
        ...


def recipe_of(storage: Storage) -> Recipe | None:
    """How another process makes `storage`, or None if it lives in this process alone."""
    return storage.recipe() if isinstance(storage, Portable) else None


def made(recipe: Recipe) -> Storage:
    """The storage that `recipe` describes."""
    storage: Storage = getattr(importlib.import_module(recipe.module), recipe.function)(recipe.argument)
    return storage
