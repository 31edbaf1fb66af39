"""Overhead: what saving back to back costs a training loop, against no saving.

The loop saves as soon as the save before is durable. ``extra`` is the wall time of each save beyond what the steps
made meanwhile take without saving: stall and slow-down together. ``durable`` is from the call to the last fsync,
beside a training that goes on. Steps without saving are timed before the system is there and after it was closed:
what it does in the background while it is there would make them slower, and saving look cheaper.

The limit of the machine is a copy of the state in memory, which a save cannot do without, and a direct write of it,
which training need not wait for: a save that does both while training waits costs it the two together. The write is
from ordinary pages; from huge ones it is faster, and is told beside it.

And what that asks of a simulated device: see `overhead_on_device`.
"""

from __future__ import annotations

import statistics
import time
from contextlib import suppress

from benchmarks import overhead_on_device
from benchmarks.bars import Bar
from benchmarks.limits import copy_seconds, huge_write_seconds, write_seconds
from benchmarks.loop import SMALL, Shape, Training
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import WARM, Save
from benchmarks.systems import OWN, System, make
from benchmarks.turns import LIMIT, Sample, Turn, Turns, take

COPY, BOTH = "extra / memory copy", "extra / memory copy and direct write"

BARS = (
    Bar("extra / best peer's", 0.30),
    Bar("durable / direct write", 1.25),
    Bar(COPY, None),
    Bar(BOTH, None),
    *overhead_on_device.BARS,
)

PLAIN = 8
"""Steps without saving, before and after the saves."""

SETTLED = 3
"""Steps in a row that take about as long as they should, before anything is measured."""

MOST_SETTLING = 40

STEADY = 1.1
"""As long as without the system: what it prepares once is over by then."""

SAVES = 8
"""In a row."""


def run(options: Options) -> Report:
    """What is simulated, every system in turn, and then what it cost beside the best peer."""
    simulated = overhead_on_device.run(options)
    turns = take("overhead", [OWN, LIMIT, *options.peers], options.turns(3), options)
    case = f"{turns.of(LIMIT)[0]['bytes'] / 1e9:.2f} GB"
    rows = [r for name in turns.systems for r in _rows(turns, case, name)]
    peers = [r.median for r in rows if r.metric == "extra" and r.system != OWN]
    if peers:
        ratios = [s["extra"] / min(peers) for s in turns.of(OWN) if "extra" in s]
        rows.append(row("overhead", case, OWN, "extra / best peer's", "x", ratios))
    limits = turns.of(LIMIT)
    rows.append(row("overhead", case, "limit: memory copy", "extra", "s", [s["copy"] for s in limits]))
    rows.append(row("overhead", case, "limit: direct write", "durable", "s", [s["write"] for s in limits]))
    if huge := [s["huge"] for s in limits if "huge" in s]:
        rows.append(row("overhead", case, "limit: direct write from huge pages", "durable", "s", huge))
    rows.append(row("overhead", case, "limit: memory copy and direct write", "extra", "s", [s["both"] for s in limits]))
    return Report([*rows, *simulated.rows], turns.notes, turns.disturbed)


def _rows(turns: Turns, case: str, name: str) -> list[Row]:
    series = [s for s in turns.of(name) if "extra" in s]
    saves = [s for s in turns.of(name) if "call" in s and not s["first"]]
    first = [s for s in turns.of(name) if s.get("first")]
    ratios = turns.against(name, "durable", "write", lambda s: "call" in s and not s["first"])
    return [
        row("overhead", case, name, "call", "ms", [s["call"] * 1e3 for s in saves]),
        row("overhead", case, name, "guard", "ms", [s["guard"] * 1e3 for s in saves]),
        row("overhead", case, name, "extra", "s", [s["extra"] for s in series]),
        row("overhead", case, name, COPY, "x", turns.against(name, "extra", "copy", lambda s: "extra" in s)),
        row("overhead", case, name, BOTH, "x", turns.against(name, "extra", "both", lambda s: "extra" in s)),
        row("overhead", case, name, "plain step", "s", [s["plain"] for s in series]),
        row("overhead", case, name, "durable", "s", [s["durable"] for s in saves]),
        row("overhead", case, name, "durable / direct write", "x", ratios),
        row("overhead", case, name, "first call", "ms", [s["call"] * 1e3 for s in first]),
    ]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: warm up, then saves back to back between steps without any."""
    training = Training(SMALL if turn.quick else Shape())
    training.step()
    if turn.system == LIMIT:
        return [_limits(training.nbytes, turn) for _ in range(1 if turn.quick else 3)]
    if not turn.quick:
        _settle(training)
    before = _plain(training)
    system = make(turn.system, training, turn.folder / "saves")
    for step in range(1, 4):
        training.step()
        system.after_step(step)
    samples = _warmed_up(training, system)
    if not turn.quick:
        _settle(training, STEADY * statistics.median(before))
    began, steps, saves = time.perf_counter(), 0, list[Sample]()
    save = Save(system, 100)
    while len(saves) < SAVES:
        training.step()
        steps += 1
        if save.is_over:
            saves.append(save.sample() | {"first": 0.0})
            if len(saves) < SAVES:
                save = Save(system, 100 + steps)
    wall = time.perf_counter() - began
    system.close()
    plain = statistics.mean([*before, *_plain(training)])
    return [*samples, *saves, {"extra": (wall - steps * plain) / SAVES, "plain": plain}]


def _limits(nbytes: int, turn: Turn) -> Sample:
    copy, write = copy_seconds(nbytes), write_seconds(nbytes, turn.folder / "limit")
    found: Sample = {"bytes": nbytes, "copy": copy, "write": write, "both": copy + write}
    with suppress(OSError):  # no huge pages here
        found["huge"] = huge_write_seconds(nbytes, turn.folder / "limit")
    return found


def _warmed_up(training: Training, system: System) -> list[Sample]:
    """The samples of the first saves, each with steps until it is durable; only the very first is kept."""
    samples = list[Sample]()
    for number in range(WARM):
        save = Save(system, 10 + number)
        while not save.is_over:
            training.step()
        samples.append(save.sample() | {"first": 1.0})
    return samples[:1]


def _settle(training: Training, enough: float = 0.0) -> None:
    """Steps until some in a row take at most `enough` seconds, or 1.15 times the fastest where none are given.

    The first ones of a process touch memory that the host has to find first.
    """
    seconds = [_step(training) for _ in range(SETTLED)]
    while max(seconds[-SETTLED:]) > (enough or 1.15 * min(seconds)) and len(seconds) < MOST_SETTLING:
        seconds.append(_step(training))


def _plain(training: Training) -> list[float]:
    return [_step(training) for _ in range(PLAIN)]


def _step(training: Training) -> float:
    began = time.perf_counter()
    training.step()
    return time.perf_counter() - began
