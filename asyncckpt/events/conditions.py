"""The conditions that saves are made in: the worker, the store, and what there is too little of."""

from __future__ import annotations

from dataclasses import dataclass

from asyncckpt.events.event import Event


@dataclass(frozen=True, slots=True)
class Fallback(Event):
    """Something ran in a slower or weaker way than it could: `feature` and why."""

    feature: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retried(Event):
    """Requests to an object store that were made again since this was told last: `count`, by `reason` (slow_down,
    conflict, server_error, timeout, reset, damaged, unreachable, folder: gone while an object was put there).
    """

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class WorkerRuns(Event):
    """A worker process, the first or one that takes another's place, runs `seconds` after it was started.

    As it has found itself: at what `nice`, on which cores (`cpus`), and which of those that training may use it keeps
    off (`spared`).
    """

    pid: int
    seconds: float
    nice: int
    cpus: tuple[int, ...]
    spared: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ignored(Event):
    """A message between this process and its worker process was left out: one of an ``unknown`` kind (what it calls
    itself is `kind`), a ``malformed`` one, or a ``late`` one, of a save that is over, which is no fault.
    """

    why: str
    kind: str


@dataclass(frozen=True, slots=True)
class Weighed(Event):
    """``executor="auto"`` chose ``thread`` or ``process`` for a state of about `bytes`: a process above `break_even`.

    `rate` is how many bytes were digested per second, None where nothing had to be measured. Told when a checkpointer
    is made, by the thread that makes it; where that process cannot be had, a `Fallback` follows.
    """

    executor: str
    bytes: int
    break_even: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class Shortage(Event):
    """Before the first save, or one of a state that has grown: it needs more of a `resource` (memory, memlock, disk,
    store) than there is.

    `sentence` says what, and what to do about it.
    """

    resource: str
    sentence: str
