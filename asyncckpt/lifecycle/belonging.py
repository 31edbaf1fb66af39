"""Belonging: a checkpointer may be given a run in place of a root; this is all it knows of one. See `asyncckpt.run`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from asyncckpt.checkpoints.listing import Which
from asyncckpt.events import Listener
from asyncckpt.storage.base import Storage

Root: TypeAlias = str | os.PathLike[str] | Storage


def place_of(root: Root) -> str:
    """`root` as a person would type it."""
    return os.fspath(root) if isinstance(root, str | os.PathLike) else root.url


@runtime_checkable
class Run(Protocol):
    """One experiment, that a checkpointer saves and resumes."""

    @property
    def root(self) -> Root:
        """Where its checkpoints are."""
        ...

    @property
    def storage_options(self) -> Mapping[str, Any] | None: ...

    @property
    def replaces(self) -> bool:
        """Whether it takes the place of an earlier one, whose checkpoints go once it has one."""
        ...

    @property
    def code(self) -> str | None:
        """The version of the code that trains, for every checkpoint to carry."""
        ...

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Who of the run wants to know what becomes of saves."""
        ...

    def begin_with(self, parts: Mapping[str, object]) -> None:
        """What is trained, by part ("model", "optimizer", "scheduler"); never raises."""
        ...

    def chosen(self) -> Which:
        """The checkpoint that ``resume()`` takes where it is not told."""
        ...

    def resumed(self) -> None:
        """Training goes on from that one."""
        ...


class Belonging(NamedTuple):
    """A root with what belongs to it, and the run where there is one."""

    root: Root
    options: Mapping[str, Any] | None
    overwrite: bool
    listeners: tuple[Listener, ...]
    run: Run | None


def belonging(
    root: Root | Run, options: Mapping[str, Any] | None, listeners: Iterable[Listener], *, overwrite: bool
) -> Belonging:
    """What a checkpointer was given as its root. Raises `ValueError` for what a run says itself."""
    if not isinstance(root, Run):
        return Belonging(root, options, overwrite, tuple(listeners), None)
    if options is not None or overwrite:
        raise ValueError(
            "storage_options= and overwrite= belong to the run here: Run.open(..., storage_options=, mode='overwrite')"
        )
    own = root.listeners
    others = (listener for listener in listeners if not any(listener is known for known in own))
    return Belonging(root.root, root.storage_options, root.replaces, (*others, *own), root)
