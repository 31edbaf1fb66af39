"""Living: the checkpointers of this process, by root, so that each root has one and none is forgotten at exit.

Nor are the runs that they belong to: those are closed after them.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import Protocol

from asyncckpt.errors import AsyncCkptError

logger = logging.getLogger("asyncckpt")


class Closable(Protocol):
    """A checkpointer or a run, as far as this module knows."""

    def close(self) -> None: ...


_living: weakref.WeakValueDictionary[str, Closable] = weakref.WeakValueDictionary()
_restored: weakref.WeakSet[Closable] = weakref.WeakSet()
_runs: dict[int, Closable] = {}
_lock = threading.Lock()
_registered = False


def replace(url: str, new: Closable) -> None:
    """Make `new` the checkpointer of `url`; one that is there (a notebook cell run again) is closed first."""
    place = _place(url)
    with _lock:
        old = _living.get(place)
        _register()
    if old is not None:
        logger.warning("a second checkpointer of %s was made in this process: closing the first", url)
        _close(f"the checkpointer of {url}", old)
    with _lock:
        _living[place] = new


def _register() -> None:
    global _registered  # noqa: PLW0603 -- exit handlers are the process's
    if not _registered:
        # The interpreter joins executor threads before it runs atexit; saves need those threads to finish.
        getattr(threading, "_register_atexit", atexit.register)(_close_all)
        _registered = True


def add_run(run: Closable) -> None:
    """Close `run` at exit, after all checkpointers."""
    with _lock:
        _register()
        _runs[id(run)] = run


def forget_run(run: Closable) -> None:
    """`run` needs no care at exit."""
    with _lock:
        _runs.pop(id(run), None)


def forget(url: str, closed: Closable) -> None:
    """`closed` needs no care at exit."""
    place = _place(url)
    with _lock:
        _restored.discard(closed)
        if _living.get(place) is closed:
            del _living[place]


def note_restored(checkpointer: Closable) -> None:
    """`checkpointer` has put a state back, random state included."""
    with _lock:
        _restored.add(checkpointer)


def has_restored() -> bool:
    """Whether a checkpointer that is not closed yet has put a state back."""
    with _lock:
        return bool(_restored)


def _place(url: str) -> str:
    """The same for all roots that lead to the same folder, by whatever links."""
    return os.path.realpath(url) if os.path.isabs(url) else url


def _close_all() -> None:
    with _lock:
        left = list(_living.items())
    for url, checkpointer in left:
        _close(f"the checkpointer of {url}", checkpointer)
    with _lock:
        runs = list(_runs.values())
    for run in runs:
        _close("a run", run)


def _close(what: str, closable: Closable) -> None:
    try:
        closable.close()
    except AsyncCkptError as error:
        logger.error("closing %s: %s", what, error)
    except Exception:  # a device that has failed: the others' saves must not be lost with this one
        logger.exception("closing %s", what)
