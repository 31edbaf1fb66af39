"""Plan: what there is time for before the process is killed, and why. Pure: a situation in, a plan out.

The newest whole state is worth most, then an older whole one that is being written already, then one on a nearer tier,
then the newest weights alone: nobody can go on from those exactly as if nothing had been, and so a checkpoint of them
is marked as partial and taken only by who asks for it.

That is decided by what recent saves have measured. Where nothing was, where the last one failed, or where one hangs,
nobody knows what there is time for. Then the newest weights go first, and the whole state right after them, which has
those to write no more: whenever the end comes, what could be had by then is had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from asyncckpt.preemption.speed import Speed

Action: TypeAlias = Literal["nothing", "finish", "save", "local", "weights"]
ACTIONS: tuple[Action, ...] = ("nothing", "finish", "save", "local", "weights")

SAFETY = 1.25
"""Times what recent saves would suggest: stores are slow when a whole fleet is told to leave."""

HUNG = 3
"""A save that has taken so many times as long as it should have, and `LEAST` seconds, hangs, or the store does."""
LEAST = 1.0

LIGHT = 1 / 100
FEW = 64 << 10
"""A part of no more than this part of the state, or so many bytes, goes with the weights: to leave it out would save no
time."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A save under way: its step, its bytes of state, and for how long it has been written, None if it has not.

    `is_near`: the local tier has it.
    """

    step: int
    nbytes: int
    elapsed: float | None = None
    is_near: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when it has to be decided what is done after `step`.

    `left`: seconds in which something has to be durable. `sizes`: bytes of each part of the state. `flights`: what is
    under way, in the order of writing; at most the first was begun, but with a local tier all that are on their way
    home. `speed`: of the store, None where nothing was measured, and `failed`: why the store did not take what came
    after that, None where it did; `local`: of a nearer tier, None where there is none.
    `saved`: the step of the newest complete checkpoint. `asked`: the user wants this step saved, whatever is under way.
    `within`: the training is on the way from `step` to the next: what was saved of `step` is older than what is now.
    """

    step: int
    left: float
    sizes: Mapping[str, int]
    flights: Sequence[Flight] = ()
    speed: Speed | None = None
    local: Speed | None = None
    failed: str | None = None
    saved: int | None = None
    asked: bool = False
    within: bool = False

    def is_saved(self, step: int | None) -> bool:
        """Whether a save of `step` is one of the state that there is now, and as good as another."""
        return step == self.step and not self.asked and not self.within


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done: `action`, which parts it `leaves_out`, which saves give way to it.

    `first`: what another save of the same state leaves out, which is made before it; nothing where there is none.
    `takes_over`: those that were not begun. `gives_up`: the one that is being written. `seconds`: what it is expected
    to take, `fits` whether that is in time; both None where nobody knows. `waits`: for how many seconds the one that is
    being written may keep memory from it before that gives way too, None for as long as there is time. `reasons`: what
    was weighed, in order.
    """

    action: Action
    leaves_out: tuple[str, ...] = ()
    takes_over: bool = False
    gives_up: bool = False
    first: tuple[str, ...] = ()
    seconds: float | None = None
    fits: bool | None = None
    waits: float | None = None
    reasons: tuple[str, ...] = field(default=(), compare=False)


def plan(now: Situation) -> Plan:
    """The best of what is expected to be in time; of several that are not, the quickest."""
    if now.is_saved(now.saved):
        return Plan("nothing", seconds=0.0, fits=True, reasons=(f"step {now.step} is saved already",))
    if now.local is not None and _hung((f for f in now.flights if not f.is_near), now.local):
        now = replace(now, local=None)  # its disk hangs, or has left them to the root
    if now.speed is None or now.failed is not None or _hung(now.flights, now.speed):
        return _unsure(now)
    reasons = [_basis(now)]
    options = list(_options(now, now.speed))
    for text, option in options:
        seconds = option.seconds or 0.0
        fits = seconds <= now.left
        reasons.append(f"{text} takes {seconds:.1f} s: {'in time' if fits else 'too long'}")
        if fits:
            return replace(option, fits=True, reasons=tuple(reasons))
    text, quickest = min(options, key=lambda option: option[1].seconds or 0.0)
    reasons.append(f"nothing is in time; what takes least is tried: {text}")
    return replace(quickest, fits=False, reasons=tuple(reasons))


def _basis(now: Situation) -> str:
    """What the plan rests on."""
    if now.failed is not None:
        return f"{now.failed}: what was measured before that is not counted on"
    if now.speed is None:
        return "nothing was measured yet"
    measured = f"{now.speed.rate / 1e6:.3g} MB/s and {now.speed.overhead:.1f} s were measured"
    return f"{measured}, at worst, with {now.speed.saves} of the last saves"


def _unsure(now: Situation) -> Plan:
    """Nobody knows how long the store takes."""
    oldest = max((f for f in now.flights if f.elapsed is not None), key=_elapsed, default=None)
    waited, reasons, hangs = 0.0, [_basis(now)], False
    if oldest is not None:
        waited = _elapsed(oldest)
        reasons.append(f"step {oldest.step} has been written for {waited:.1f} s")
        hangs = now.failed is None and now.speed is not None and _hung(now.flights, now.speed)
    if any(now.is_saved(flight.step) for flight in now.flights) and not (hangs and waited > now.left):
        return Plan("finish", reasons=(*reasons, f"step {now.step} is on its way already"))
    if waited > now.left and not (hangs or now.asked):
        reasons.append("whatever begins now would have less time than that has had")
        return Plan("finish", takes_over=True, reasons=tuple(reasons))
    reason, first = _before_the_whole(now)
    return Plan("save", takes_over=True, gives_up=hangs, first=first, reasons=(*reasons, reason))


def _before_the_whole(now: Situation) -> tuple[str, tuple[str, ...]]:
    """Why the whole state is saved alone, or what a save before it leaves out."""
    if now.local is not None and (seconds := SAFETY * now.local.seconds(_total(now))) <= now.left:
        return f"the local tier, from where it goes to the root, has the whole state in {seconds:.1f} s", ()
    least = next(reversed(_shares(now.sizes)), None)
    if least is None:
        return "nothing can be left out", ()
    if now.asked:
        return "all of it was asked for", ()
    return "what is worth most goes first", tuple(name for name in now.sizes if name not in least)


_SENTENCES: Mapping[Action, str] = {
    "nothing": "nothing is left to do",
    "finish": "what is under way is waited for",
    "save": "the whole state is saved",
    "local": "the whole state is saved on the local tier",
    "weights": "a part of the state is saved",
}


def sentence(decided: Plan) -> str:
    """What is done, for people."""
    found = _SENTENCES[decided.action]
    if decided.first:
        found = f"a part of the state is saved, without {', '.join(decided.first)}, and then the whole state"
    if decided.leaves_out:
        found += f", without {', '.join(decided.leaves_out)}"
    if decided.gives_up:
        found += ", in place of what is being written"
    return found


def _options(now: Situation, speed: Speed) -> Iterable[tuple[str, Plan]]:
    """Everything that could be done, best first."""
    begun = sum(_remaining(flight, speed) for flight in now.flights if flight.elapsed is not None)
    queued = sum(_remaining(flight, speed) for flight in now.flights if flight.elapsed is None)
    if any(now.is_saved(flight.step) for flight in now.flights):
        yield "to finish what is under way, this step too,", Plan("finish", seconds=begun + queued)
    else:
        yield from _whole(now, speed, begun, queued)
    if now.flights and not now.asked:
        yield from _finishing(now, begun, queued)
    if now.local is not None:
        yield "the whole state, on the local tier only,", _alone(now, "local", SAFETY * now.local.seconds(_total(now)))
    for kept in _shares(now.sizes):
        left_out = tuple(name for name in now.sizes if name not in kept)
        seconds = SAFETY * speed.seconds(sum(now.sizes[name] for name in kept))
        yield f"a part of it, without {', '.join(left_out)},", _alone(now, "weights", seconds, left_out)


def _total(now: Situation) -> int:
    return sum(now.sizes.values())


def _alone(now: Situation, action: Action, seconds: float, leaves_out: tuple[str, ...] = ()) -> Plan:
    is_alone = not now.flights
    return Plan(action, leaves_out, takes_over=not is_alone, gives_up=not is_alone, seconds=seconds)


def _whole(now: Situation, speed: Speed, begun: float, queued: float) -> Iterable[tuple[str, Plan]]:
    whole = SAFETY * speed.seconds(_total(now))
    hangs = hangs_in(now.flights, speed)
    waits = None if hangs is None else min(hangs, now.left - whole)
    if queued:
        yield "the whole state, after all that is under way,", Plan("save", seconds=begun + queued + whole, waits=waits)
    if begun:
        after = Plan("save", takes_over=True, seconds=begun + whole, waits=waits)
        yield "the whole state, after what is being written,", after
        yield "the whole state, in place of what is being written,", _alone(now, "save", whole)
    else:
        yield "the whole state", Plan("save", takes_over=bool(queued), seconds=whole)


def _finishing(now: Situation, begun: float, queued: float) -> Iterable[tuple[str, Plan]]:
    """An older state, which is whole."""
    newest = now.flights[-1].step
    if newest != now.step or now.within:
        yield f"to finish step {newest}, which is under way,", Plan("finish", seconds=begun + queued)
    if begun and queued:
        oldest = now.flights[0].step
        yield f"to finish step {oldest} alone,", Plan("finish", takes_over=True, seconds=begun)


def _remaining(flight: Flight, speed: Speed) -> float:
    """What a save still takes; one that is late is believed to be nearly done."""
    expected = SAFETY * speed.seconds(flight.nbytes)
    return max(expected - _elapsed(flight), expected / 10)


def _elapsed(flight: Flight) -> float:
    return flight.elapsed or 0.0


def _hung(flights: Iterable[Flight], speed: Speed) -> bool:
    """Whether a save is so late that the store is not what it was, or that its request hangs."""
    return any(_elapsed(f) > _most(f, speed) for f in flights)


def _most(flight: Flight, speed: Speed) -> float:
    return max(HUNG * SAFETY * speed.seconds(flight.nbytes), LEAST)


def hangs_in(flights: Iterable[Flight], speed: Speed | None) -> float | None:
    """Seconds after which one of those that are being written from memory hangs, if it is not over by then.

    Where none is, the oldest is about to be, or the worker has not said so yet. None where there is none, or nobody
    knows.
    """
    if speed is None:
        return None
    waiting = [flight for flight in flights if not flight.is_near]
    written = [flight for flight in waiting if flight.elapsed is not None] or waiting[:1]
    return min((_most(flight, speed) - _elapsed(flight) for flight in written), default=None)


def _shares(sizes: Mapping[str, int]) -> list[frozenset[str]]:
    """What can be saved of a state in parts, most first: the model with all that is light, then the optimizer too."""
    total = sum(sizes.values())
    heavy = [name for name, nbytes in sizes.items() if nbytes > max(LIGHT * total, FEW)]
    if "model" not in sizes:
        return []
    light = frozenset(sizes) - frozenset(heavy) | {"model"}
    shares = [light]
    if "optimizer" in heavy:
        shares.append(light | {"optimizer"})
    return [share for share in reversed(shares) if len(share) < len(sizes)]
