"""Arguments: what `AsyncCheckpointer` refuses at once, by name, instead of going wrong at the first save."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Collection, Iterable
from typing import SupportsIndex

from asyncckpt.events import Listener
from asyncckpt.retention import RetentionPolicy

_CHOICES = {
    "on_busy": ("coalesce", "wait", "skip"),
    "on_failure": ("warn", "raise"),
    "verify": ("sample", "always", "off"),
    "executor": ("auto", "thread", "process"),
}


def check_choices(**given: object) -> None:
    """Refuse what is not one of the words that an argument may be."""
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name}={value!r}: use one of {', '.join(_CHOICES[name])}")


def check_kinds(**given: tuple[object, type]) -> None:
    """Refuse what is not of the kind that an argument is of; None is of every kind."""
    for name, (value, kind) in given.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name}={value!r}: give {kind.__name__}(...)")


def check_listeners(listeners: Iterable[object]) -> None:
    """Refuse what cannot be told of events: it would be told so at every one, in the log."""
    for listener in listeners:
        if isinstance(listener, type) or not isinstance(listener, Listener):
            raise TypeError(f"listeners= has {listener!r}: give objects that have on_event(event)")


def check_keep(keep: RetentionPolicy | None, monitor: object) -> None:
    """Refuse what does not say which metric counts and whether less or more of it is better; and to keep the best of
    something that nobody named.
    """
    match monitor:
        case None | (str(), "min" | "max"):
            pass
        case _:
            raise ValueError(f'monitor={monitor!r}: use ("metric", "min") or ("metric", "max")')
    if keep is not None and keep.best is not None and monitor is None:
        raise ValueError(f'RetentionPolicy(best={keep.best}) needs monitor=("metric", "min" or "max")')


def check_values(root: object, close_timeout: object, generations: object) -> None:
    """Refuse a root that names nothing, a time that nobody can wait for, and no memory at all."""
    if not isinstance(root, str | os.PathLike) and not hasattr(root, "url"):
        raise TypeError(f"root={root!r}: give a path, a URL or a storage")
    if isinstance(root, str | os.PathLike) and not os.fspath(root):
        raise ValueError(f"root={root!r}: give a path or a URL; the current folder is '.'")
    if not isinstance(close_timeout, int | float) or not 0 <= close_timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"close_timeout={close_timeout!r}: give seconds, 0 or more")
    if not isinstance(generations, int) or generations < 1:
        raise ValueError(f"generations={generations!r}: a whole number is needed, at least 1")


def check_emergency(deadline: float | None, *, emergency: bool, on_busy: object) -> None:
    """Refuse a deadline that is none, or that is nobody's, and a word about what an emergency never does."""
    if not emergency:
        raise ValueError(
            f"save(deadline={deadline}) belongs to save(emergency=True): handle.wait(timeout=) is for others"
        )
    if deadline is not None and not 0 < deadline <= threading.TIMEOUT_MAX:
        raise ValueError(f"save(deadline={deadline}): give the seconds within which it has to be durable")
    if on_busy is not None:
        raise ValueError(f"save(on_busy={on_busy!r}, emergency=True): an emergency save always waits for its turn")


def whole(name: str, count: SupportsIndex) -> int:
    """A count of steps or epochs, of whatever type of integer, as an int; raises `TypeError` for what is none.

    At once: a tensor that counts steps is another number once the next step is made.
    """
    try:
        return operator.index(count)
    except TypeError:
        raise TypeError(f"{name}={count!r}: give a whole number, how many {name}s are complete") from None


def several(parts: Collection[str]) -> Collection[str]:
    """Names of parts; one may be given without a list around it."""
    return (parts,) if isinstance(parts, str) else parts
