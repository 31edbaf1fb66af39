"""Moving: what benchmarks of uploads and of downloads have in common: every client in turn, on one server."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks.options import Options
from benchmarks.results import Report, Row
from benchmarks.server import served
from benchmarks.turns import LIMIT, Turns, take


def size(*, quick: bool) -> int:
    """Bytes that each client moves."""
    return 64 << 20 if quick else 512 << 20


def compared(
    bench: str, own: Sequence[str], stored: int, options: Options, rows: Callable[[Turns, str, str], list[Row]]
) -> Report:
    """The `rows` of each system, for the case at hand: of this project's `own`, of the limit, and of the peers.

    The server holds at most `stored` times the bytes.
    """
    nbytes = size(quick=options.quick)
    with served(options.scratch, stored * nbytes) as server:
        turns = take(bench, [*own, LIMIT, *options.peers], options.turns(3), options, server)
    case = f"{nbytes / 1e9:.2f} GB"
    found = [r for name in (*turns.systems, LIMIT) for r in rows(turns, case, name)]
    return Report(found, turns.notes, turns.disturbed)


def best(turns: Turns, names: Sequence[str], key: str, *, most: bool) -> str | None:
    """Which of those of `names` that were measured has the most or least `key`."""
    medians = {name: statistics.median(s[key] for s in turns.of(name)) for name in names if name in turns.systems}
    return (max if most else min)(medians, key=lambda name: medians[name], default=None)
