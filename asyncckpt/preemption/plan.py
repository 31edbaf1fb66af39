"""Plan: what there is time for before the process is killed, and why. Pure: a situation in, a plan out.

The newest whole state is worth most, then an older whole one that is being written already, then one on a nearer tier,
then the newest weights alone: nobody can go on from those exactly as if nothing had been, and so a checkpoint of them
is marked as partial and taken only by who asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from asyncckpt.preemption.speed import Speed

Action: TypeAlias = Literal["nothing", "finish", "save", "local", "weights"]
ACTIONS: tuple[Action, ...] = ("nothing", "finish", "save", "local", "weights")

SAFETY = 1.25
"""Times what recent saves would suggest: stores are slow when a whole fleet is told to leave."""

LIGHT = 1 / 100
FEW = 64 << 10
"""A part of no more than this part of the state, or so many bytes, goes with the weights: to leave it out would save no
time."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A save under way: its step, its bytes of state, and for how long it has been written, None if it has not."""

    step: int
    nbytes: int
    elapsed: float | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when it has to be decided what is done after `step`.

    `left`: seconds in which something has to be durable. `sizes`: bytes of each part of the state. `flights`: what is
    under way, in the order of writing; at most the first was begun, but with a local tier all that are on their way
    home. `speed`: of the store, None where nothing was measured; `local`: of a nearer tier, None where there is none.
    `saved`: the step of the newest complete checkpoint. `asked`: the user wants this step saved, whatever is under way.
    """

    step: int
    left: float
    sizes: Mapping[str, int]
    flights: Sequence[Flight] = ()
    speed: Speed | None = None
    local: Speed | None = None
    saved: int | None = None
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done: `action`, which parts it `leaves_out`, which saves give way to it.

    `takes_over`: those that were not begun. `gives_up`: the one that is being written. `seconds`: what it is expected
    to take, `fits` whether that is in time; both None where nobody knows. `reasons`: what was weighed, in order.
    """

    action: Action
    leaves_out: tuple[str, ...] = ()
    takes_over: bool = False
    gives_up: bool = False
    seconds: float | None = None
    fits: bool | None = None
    reasons: tuple[str, ...] = field(default=(), compare=False)


def plan(now: Situation) -> Plan:
    """The best of what is expected to be in time; of several that are not, the quickest."""
    if now.saved == now.step and not now.asked:
        return Plan("nothing", seconds=0.0, fits=True, reasons=(f"step {now.step} is saved already",))
    if now.speed is None:
        return _unmeasured(now)
    reasons: list[str] = []
    options = list(_options(now, now.speed))
    for text, option in options:
        seconds = option.seconds or 0.0
        fits = seconds <= now.left
        reasons.append(f"{text} takes {seconds:.1f} s: {'in time' if fits else 'too long'}")
        if fits:
            return _said(option, fits=True, reasons=reasons)
    text, quickest = min(options, key=lambda option: option[1].seconds or 0.0)
    return _said(quickest, fits=False, reasons=[*reasons, f"nothing is in time; what takes least is tried: {text}"])


def _unmeasured(now: Situation) -> Plan:
    """Nobody knows how long anything takes: the newest state, after what is being written."""
    if any(flight.step == now.step for flight in now.flights) and not now.asked:
        return Plan("finish", reasons=("nothing was measured yet", f"step {now.step} is on its way already"))
    return Plan("save", takes_over=True, reasons=("nothing was measured yet: the whole state is saved",))


def _said(option: Plan, *, fits: bool, reasons: Iterable[str]) -> Plan:
    return Plan(
        option.action,
        option.leaves_out,
        option.takes_over,
        option.gives_up,
        option.seconds,
        fits,
        tuple(reasons),
    )


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
    if decided.leaves_out:
        found += f", without {', '.join(decided.leaves_out)}"
    if decided.gives_up:
        found += ", in place of what is being written"
    return found


def _options(now: Situation, speed: Speed) -> Iterable[tuple[str, Plan]]:
    """Everything that could be done, best first."""
    whole = SAFETY * speed.seconds(sum(now.sizes.values()))
    begun = sum(_remaining(flight, speed) for flight in now.flights if flight.elapsed is not None)
    queued = sum(_remaining(flight, speed) for flight in now.flights if flight.elapsed is None)
    if any(flight.step == now.step for flight in now.flights) and not now.asked:
        yield "to finish what is under way, this step too,", Plan("finish", seconds=begun + queued)
    else:
        yield from _whole(now, whole, begun, queued)
    if now.flights and not now.asked:
        yield from _finishing(now, begun, queued)
    if now.local is not None:
        yield "the whole state, on the local tier only,", _alone("local", SAFETY * now.local.seconds(_total(now)))
    for kept in _shares(now.sizes):
        left_out = tuple(name for name in now.sizes if name not in kept)
        seconds = SAFETY * speed.seconds(sum(now.sizes[name] for name in kept))
        yield f"a part of it, without {', '.join(left_out)},", _alone("weights", seconds, left_out)


def _total(now: Situation) -> int:
    return sum(now.sizes.values())


def _alone(action: Action, seconds: float, leaves_out: tuple[str, ...] = ()) -> Plan:
    return Plan(action, leaves_out, takes_over=True, gives_up=True, seconds=seconds)


def _whole(now: Situation, whole: float, begun: float, queued: float) -> Iterable[tuple[str, Plan]]:
    if queued:
        yield "the whole state, after all that is under way,", Plan("save", seconds=begun + queued + whole)
    if begun:
        after = Plan("save", takes_over=True, seconds=begun + whole)
        yield "the whole state, after what is being written,", after
        yield "the whole state, in place of what is being written,", _alone("save", whole)
    else:
        yield "the whole state", Plan("save", takes_over=bool(queued), seconds=whole)


def _finishing(now: Situation, begun: float, queued: float) -> Iterable[tuple[str, Plan]]:
    """An older state, which is whole."""
    newest = now.flights[-1].step
    if newest != now.step:
        yield f"to finish step {newest}, which is under way,", Plan("finish", seconds=begun + queued)
    if begun and queued:
        oldest = now.flights[0].step
        yield f"to finish step {oldest} alone,", Plan("finish", takes_over=True, seconds=begun)


def _remaining(flight: Flight, speed: Speed) -> float:
    """What a save still takes; one that is late already is believed to be nearly done, and no more."""
    expected = SAFETY * speed.seconds(flight.nbytes)
    return max(expected - (flight.elapsed or 0.0), expected / 10)


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
