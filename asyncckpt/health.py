"""Health: whether checkpoints come as they should, in one value that a program can read; asking holds nothing up.

What is known comes from events, from how full the queue is, and from a look at the store that the background takes: a
store that hangs hangs there, and that it does not answer is what is told. Where a look would have to start what it is
to report on, a thread that saves, none is taken.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.clock import Clock
from asyncckpt.errors import AsyncCkptError
from asyncckpt.events import (
    LOCAL,
    Durable,
    Event,
    Expected,
    Failed,
    Fallback,
    Requested,
    Resumed,
    Skipped,
    Superseded,
    TierDurable,
    TierFailed,
    WorkerRuns,
)
from asyncckpt.format import names
from asyncckpt.levels import Levels
from asyncckpt.storage.daemons import beside
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.room import free

SILENT = 20.0
"""Seconds without a sign of life from the worker process, which gives one every five."""

UNANSWERED = 10.0
"""Seconds for which a store may take to answer."""

PATIENCE = 60.0
"""Seconds for which a save may be under way whatever others took."""

MANY_TIMES = 10
"""So many times what saves usually take, one is stuck."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a checkpointer is; `problems` says in words what is wrong, and is empty where nothing is.

    Times are in seconds, sizes in bytes; None is what is not known, or not yet.
    """

    problems: tuple[str, ...]
    worker: str
    """``alive``, ``idle`` (nothing was asked of it yet), ``silent``, ``stuck`` or ``dead``."""
    worker_starts: int
    """Worker processes that were started: one, and one for each that died; 0 for a thread."""
    queued: int
    writing: int
    oldest: float | None
    """For how long the oldest save that has not ended is under way."""
    durable_step: int | None
    durable_age: float | None
    expected_interval: float | None
    failures: int
    """Saves that failed since one was durable."""
    storage: str
    """``reachable``, ``unreachable`` or ``unknown``."""
    storage_age: float | None
    """Since the last answer of it."""
    disk_free: int | None
    fallbacks: tuple[str, ...]
    """What runs slower or weaker than it could, and why; no problem."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, as far as is known."""
        return not self.problems

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"ok": self.ok, **asdict(self)}


class Vitals:
    """A listener: what a checkpointer's events say about its health."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began: list[tuple[int, float]] = []
        """Steps and since when: several saves of one step may be under way."""
        self._taken: deque[float] = deque(maxlen=16)
        self.durable: tuple[int, float] | None = None
        """Step and Unix time of the newest."""
        self.bytes = 0
        """Of its state."""
        self.expected: float | None = None
        self.starts = 0
        self.failures = 0
        """Since one was durable."""
        self.last_failure = ""
        """Of which step, and why."""
        self.tiers: dict[str, TierFailed] = {}
        """What tiers beside home have failed of last."""
        self.fallbacks: dict[str, str] = {}
        self._landed: set[int] = set()
        """The steps of saves under way that are on the local tier."""

    def on_event(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            match event:
                case Requested(error=None):
                    self._began.append((event.step, self._clock.monotonic()))
                case Durable():
                    self._ended(event.step)
                    self._taken.append(event.seconds)
                    self.durable, self.bytes, self.failures = (event.step, event.created), event.bytes, 0
                case Failed():
                    self._ended(event.step)
                    self.failures += 1
                    # Not the exception: it holds the frames that it went through, and the memory that they saw.
                    self.last_failure = f"{event.step} ({event.error})"
                case Skipped() | Superseded():
                    self._ended(event.step)
                case Resumed():
                    self.durable = event.step, event.created
                case Expected():
                    self.expected = event.seconds
                case WorkerRuns():
                    self.starts += 1
                case Fallback():
                    self.fallbacks = {**self.fallbacks, event.feature: event.reason}
                case TierFailed():
                    self.tiers = {**self.tiers, event.tier: event}
                case TierDurable():
                    self._reached(event)

    def _reached(self, event: TierDurable) -> None:
        self.tiers = {tier: failed for tier, failed in self.tiers.items() if tier != event.tier}
        if event.tier == LOCAL:
            self._landed.add(event.step)

    def _ended(self, step: int) -> None:
        self._landed.discard(step)
        for number, (began, _) in enumerate(self._began):
            if began == step:
                del self._began[number]
                return

    def oldest(self) -> tuple[int, float] | None:
        """The step of the oldest save under way, and for how long it has been."""
        with self._lock:
            if not self._began:
                return None
            step, since = self._began[0]
            return step, self._clock.monotonic() - since

    def has_landed(self, step: int) -> bool:
        """Whether the local tier has that save, which is under way."""
        with self._lock:
            return step in self._landed

    def usual(self) -> float | None:
        """Seconds that a save usually takes."""
        with self._lock:
            return statistics.median(self._taken) if self._taken else None


@dataclass(frozen=True, slots=True)
class _Look:
    """What the store had to say, and when (monotonic)."""

    at: float
    error: str | None = None
    free: int | None = None


class Checkup:
    """Judges the health of one checkpointer, whose saves `executor` carries out, `by_way_of_local` tier or straight."""

    def __init__(
        self,
        vitals: Vitals,
        levels: Callable[[], Levels],
        executor: Executor,
        clock: Clock,
        *,
        by_way_of_local: bool = False,
    ) -> None:
        self._by_way_of_local = by_way_of_local
        self._vitals = vitals
        self._levels = levels
        self._executor = executor
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: tuple[float, Future[_Look]] | None = None
        self._looked: _Look | None = None

    def health(self, within: float) -> Health:
        """What is known now; for a look at the store it is waited `within` seconds at most, with 0 not at all."""
        self._look(within)
        levels, vitals, looked = self._levels(), self._vitals, self._looked
        oldest, durable = vitals.oldest(), vitals.durable
        worker = self._worker(levels, oldest)
        return Health(
            problems=tuple(self._problems(worker, levels, oldest)),
            worker=worker,
            worker_starts=vitals.starts,
            queued=levels.queued,
            writing=levels.writing,
            oldest=None if oldest is None else oldest[1],
            durable_step=None if durable is None else durable[0],
            durable_age=None if durable is None else self._clock.time() - durable[1],
            expected_interval=vitals.expected,
            failures=vitals.failures,
            storage="unknown" if looked is None else "reachable" if looked.error is None else "unreachable",
            storage_age=None if looked is None else self._clock.monotonic() - looked.at,
            disk_free=None if looked is None else looked.free,
            fallbacks=tuple(f"{feature}: {reason}" for feature, reason in vitals.fallbacks.items()),
        )

    # -- the store -----------------------------------------------------------------------------------------

    def _look(self, within: float) -> None:
        """Take in what the last look has found, and begin another one where none is under way."""
        with self._lock:
            self._harvest()
            if self._asked is None and (look := self._executor.look(self._ask)) is not None:
                self._asked = self._clock.monotonic(), look
            asked = self._asked
        if within > 0 and asked is not None:
            wait([asked[1]], within)
            with self._lock:
                self._harvest()

    def _harvest(self) -> None:
        if self._asked is not None and self._asked[1].done():
            try:
                self._looked = self._asked[1].result()
            except AsyncCkptError as error:  # the worker died of something else meanwhile
                self._looked = _Look(self._clock.monotonic(), str(error))
            self._asked = None

    async def _ask(self, catalog: Catalog) -> _Look:
        error = None
        try:
            await catalog.storage.head(names.RUN)
        except AsyncCkptError as reason:
            error = str(reason)
        return _Look(self._clock.monotonic(), error, await beside(partial(free, catalog.storage)))

    # -- what is wrong -------------------------------------------------------------------------------------

    def _worker(self, levels: Levels, oldest: tuple[int, float] | None) -> str:
        alive = self._executor.is_alive
        if not alive:
            return "idle" if alive is None else "dead"
        if levels.heard and self._clock.time() - levels.heard > SILENT:
            return "silent"
        return "stuck" if self._is_stuck(oldest) else "alive"

    def _is_stuck(self, oldest: tuple[int, float] | None) -> bool:
        usual = self._vitals.usual() or 0.0
        return oldest is not None and oldest[1] > max(PATIENCE, MANY_TIMES * usual)

    def _problems(self, worker: str, levels: Levels, oldest: tuple[int, float] | None) -> Iterator[str]:
        if worker == "dead":
            yield "the background worker is dead: the next save starts another"
        if worker == "silent":
            silence = self._clock.time() - levels.heard
            yield f"the worker process has given no sign for {silence:.0f} s: it is stopped, or its machine holds it"
        if oldest is not None and self._is_stuck(oldest):
            usual = self._vitals.usual()
            often = "" if usual is None else f", where others took {usual:.1f} s"
            yield f"the save of step {oldest[0]} is under way for {oldest[1]:.0f} s{often}{self._held_up_at(oldest[0])}"
        yield from self._of_saves()
        yield from self._of_the_store()

    def _held_up_at(self, step: int) -> str:
        if not self._by_way_of_local:
            return ""
        if self._vitals.has_landed(step):
            return "; it is on the local tier"
        return "; the local tier has not got it: its disk is slow, or hangs"

    def _of_saves(self) -> Iterator[str]:
        vitals = self._vitals
        if vitals.failures:
            since = (
                "no save is durable" if vitals.durable is None else f"none since step {vitals.durable[0]} is durable"
            )
            yield f"{vitals.failures} failed and {since}; last step {vitals.last_failure}"
        if vitals.durable is not None and vitals.expected is not None:
            age = self._clock.time() - vitals.durable[1]
            if age > max(PATIENCE, MANY_TIMES * vitals.expected):
                due = f"one every {vitals.expected:.0f} s is due"
                yield f"the newest durable checkpoint is {age:.0f} s old, where {due}"
        for tier, event in vitals.tiers.items():
            yield f"the {tier} is behind: {event.error}"

    def _of_the_store(self) -> Iterator[str]:
        looked, asked = self._looked, self._asked
        if asked is not None and (waited := self._clock.monotonic() - asked[0]) > UNANSWERED:
            yield f"the store has not answered for {waited:.0f} s"
        elif looked is not None and looked.error is not None:
            yield f"the store cannot be reached: {looked.error}"
        if looked is not None and looked.free is not None and looked.free < self._vitals.bytes:
            yield f"the disk has {looked.free:,} bytes left, and a full save takes {self._vitals.bytes:,}"
