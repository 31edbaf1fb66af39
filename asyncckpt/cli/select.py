"""Selecting: what a person types for a run or one checkpoint of it, and how the run is read."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import click

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Which
from asyncckpt.cli.nothing import is_elsewhere, nothing_in
from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.format.marks import check_tag
from asyncckpt.storage import LocalStorage, from_url
from asyncckpt.storage.bounded import BoundedReading, bounded_reading
from asyncckpt.storage.changing import bounded_changing
from asyncckpt.storage.stopped import put_in_order, unheld

_T = TypeVar("_T")

_ID_DIGITS = 8
"""As many digits as an id has, with its zeros; fewer are a step."""


@dataclass(frozen=True, slots=True)
class Target:
    """A run, and the one checkpoint that was named, or None."""

    root: str
    which: Which | None

    @property
    def chosen(self) -> Which:
        """The one that was named, or the latest."""
        return "latest" if self.which is None else self.which


def target(text: str) -> Target:
    """``ROOT@latest``, ``@best``, ``@1000`` (a step), ``@00000042`` (an id), ``@NAME`` (a tag), or ``ROOT`` alone.

    Only the last ``@`` counts; none in a path that exists as it stands, nor one with a slash behind it. Raises
    `CheckpointNotFoundError` for what can be none of these.
    """
    root, at, selector = text.rpartition("@")
    if not at or {"/", os.sep} & set(selector) or _is_there(text):
        return Target(text, None)
    if not (selector.isascii() and selector.isdecimal()):
        try:
            return Target(root, selector if selector in ("latest", "best") else check_tag(selector))
        except ValueError as error:
            named = "after the @ comes latest, best, a step, an id of 8 digits, or a tag"
            raise CheckpointNotFoundError(f"{text}: {named} ({error})") from None
    return Target(root, selector if len(selector) >= _ID_DIGITS else int(selector))


def _is_there(path: str) -> bool:
    """Whether anything is; nobody waits for a disk that hangs."""
    disk = LocalStorage(os.path.expanduser(path))

    async def look() -> bool:
        storage = BoundedReading(disk, disk)
        try:
            return await storage.blocking("a look at it", partial(os.path.exists, disk.url))
        finally:
            await storage.aclose()

    return unheld(look(), "asyncckpt-command")


def reading(root: str, act: Callable[[Catalog], Coroutine[Any, Any, _T]]) -> _T:
    """What `act`, which only reads, finds in the catalog of `root`; nobody waits for a disk that hangs."""

    async def run() -> _T:
        storage = bounded_reading(from_url(root))
        try:
            return await act(Catalog(storage))
        finally:
            await storage.aclose()

    with elsewhere(root):
        return unheld(run(), "asyncckpt-command", as_here())


def acting(root: str, act: Callable[[Catalog], Awaitable[_T]]) -> _T:
    """What `act` comes to, which changes something there, or goes on until it is interrupted.

    Nobody waits for a disk that hangs; of a change that was under way then it is said that nobody knows.
    """

    async def run() -> _T:
        storage = bounded_changing(from_url(root))
        try:
            return await act(Catalog(storage))
        finally:
            await storage.aclose()

    with elsewhere(root):
        return put_in_order(run(), "asyncckpt-command", as_here())


def as_here() -> Callable[[], AbstractContextManager[Any]]:
    """How a command prints, for another thread of it."""
    context = click.get_current_context(silent=True)
    return nullcontext if context is None else partial(context.scope, cleanup=False)


@contextmanager
def elsewhere(root: str) -> Iterator[None]:
    """Where a checkpoint is not found: say if `root` is not there, or if it may be in a run below that."""
    try:
        yield
    except CheckpointNotFoundError:
        if is_elsewhere(root):
            raise CheckpointNotFoundError(nothing_in(root)) from None
        raise
