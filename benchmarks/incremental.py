"""Incremental: bytes on disk of a save after 1 % of the state has changed.

A frozen base of 1.5 GB and an adapter beside it that is trained: with its optimizer state 1 % of all bytes.
"""

from __future__ import annotations

from torch import nn

from benchmarks import pages
from benchmarks.bars import Bar
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.saves import Save
from benchmarks.subjects import Optimized, parameters, size_of
from benchmarks.systems import OWN, make
from benchmarks.turns import Sample, Turn, take

BARS = (Bar("later / first", 1.1),)

LAYERS = 150
NUMEL = 2_500_000
"""Numbers of one frozen layer."""

SAVES = 4


def run(options: Options) -> Report:
    """Every system in turn."""
    turns = take("incremental", [OWN, *options.peers], options.turns(1), options)
    return Report([r for name in turns.systems for r in _rows(name, turns.of(name))], turns.notes, turns.disturbed)


def _rows(name: str, found: list[Sample]) -> list[Row]:
    case = f"{found[0]['state'] / 1e9:.2f} GB, {found[0]['changing'] / found[0]['state']:.2%} of it changing"
    firsts, later = [s for s in found if s["first"]], [s for s in found if not s["first"]]
    size = row("incremental", case, name, "first", "MB", [s["bytes"] / 1e6 for s in firsts])
    return [
        size,
        row("incremental", case, name, "later", "MB", [s["bytes"] / 1e6 for s in later]),
        row("incremental", case, name, "later / first", "%", [s["bytes"] / 1e4 / size.median for s in later]),
        row("incremental", case, name, "call", "ms", [s["call"] * 1e3 for s in later]),
        row("incremental", case, name, "durable", "s", [s["durable"] for s in later]),
    ]


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: nothing is deleted, so that each save's bytes are what it added."""
    numel = NUMEL // 25 if turn.quick else NUMEL
    base = [p.requires_grad_(False) for p in parameters(LAYERS, numel)]
    adapter = [nn.Parameter(p[: numel // 297].clone()) for p in base]
    subject = Optimized([*base, *adapter])
    root = turn.folder / "saves"
    system = make(turn.system, subject, root, keep_all=True)
    samples, held, step = list[Sample](), 0, 0
    for number in range(SAVES):
        for _ in range(3):
            subject.step()
            step += 1
            system.after_step(step)
        sample = Save(system, step, keep_all=True).sample()
        total = pages.disk_bytes(root / "data" if turn.system == OWN else root)
        samples.append(sample | {"first": float(number == 0), "bytes": total - held})
        held = total
    system.close()
    _, nbytes = size_of(subject)
    changing = sum(p.nbytes for p in adapter) * 3
    return [s | {"state": nbytes, "changing": changing} for s in samples]
