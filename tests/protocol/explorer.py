"""Explorer: every state that a model can reach, breadth first: a violation comes with a shortest trace."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Broken(NamedTuple):
    """An invariant that does not hold, and how."""

    invariant: str
    message: str


class Model(Protocol[S]):
    """What can happen, one atomic step at a time, and what must never happen.

    A step's label is turned into text only for a trace: it may be any object.
    """

    def initial(self) -> S:
        """The state before the first step."""
        ...

    def successors(self, state: S) -> Iterable[tuple[object, S]]:
        """Every step that can be taken in `state`, with the state after it."""
        ...

    def broken_in(self, state: S) -> Iterable[Broken]:
        """The invariants that `state` breaks."""
        ...

    def broken_by(self, before: S, after: S) -> Iterable[Broken]:
        """The invariants that going from `before` to `after` breaks."""
        ...


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken invariant and one of the shortest ways to get there."""

    invariant: str
    message: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        steps = (f"  {number:3}. {step}" for number, step in enumerate(self.trace, 1))
        return "\n".join((f"{self.invariant}: {self.message}", *steps))


@dataclass(slots=True)
class Exploration(Generic[S]):
    """What a search found. `exhausted` is False where it stopped before it had seen every state."""

    arrivals: dict[S, tuple[S, object] | None]
    """How each state was first reached: from where, by which step."""
    violations: dict[str, Violation] = field(default_factory=dict)
    exhausted: bool = False

    @property
    def states(self) -> int:
        """How many states were reached."""
        return len(self.arrivals)

    def record(self, found: Iterable[Broken], last: S, step: object = None) -> None:
        """Keep the first violation of each invariant: it broke in state `last`, or by `step` out of it."""
        for invariant, message in found:
            if invariant not in self.violations:
                self.violations[invariant] = Violation(invariant, message, self._trace(last, step))

    def _trace(self, state: S, step: object) -> tuple[str, ...]:
        steps = [] if step is None else [str(step)]
        while (arrival := self.arrivals[state]) is not None:
            state = arrival[0]
            steps.append(str(arrival[1]))
        return tuple(reversed(steps))

    def __str__(self) -> str:
        extent = "all" if self.exhausted else "the first"
        found = (str(violation) for violation in self.violations.values())
        return "\n".join((f"{extent} {self.states:,} states, {len(self.violations)} violations", *found))


def explore(model: Model[S], *, until: Collection[str] = (), limit: int = 1_000_000) -> Exploration[S]:
    """Visit every reachable state of `model`, at most about `limit` of them.

    Stops early once every invariant named in `until` is broken. States that break an invariant are explored
    further like all others.
    """
    start = model.initial()
    search = Exploration[S]({start: None})
    search.record(model.broken_in(start), start)
    with _no_collector():
        _search(model, search, start, frozenset(until), limit)
    return search


def _search(model: Model[S], search: Exploration[S], start: S, until: frozenset[str], limit: int) -> None:
    frontier = deque([start])
    while frontier:
        if search.states > limit or (until and search.violations.keys() >= until):
            return
        frontier.extend(_expand(model, search, frontier.popleft()))
    search.exhausted = True


def _expand(model: Model[S], search: Exploration[S], state: S) -> list[S]:
    """Take every step out of `state`; returns the states that had not been reached before."""
    discovered = []
    for step, after in model.successors(state):
        search.record(model.broken_by(state, after), state, step)
        if after not in search.arrivals:
            search.arrivals[after] = (state, step)
            search.record(model.broken_in(after), after)
            discovered.append(after)
    return discovered


@contextmanager
def _no_collector() -> Iterator[None]:
    """States hold no cycles: the collector would only walk all of them again and again, a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
