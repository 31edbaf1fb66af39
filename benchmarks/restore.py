"""Restore: the newest checkpoint back into a training's own tensors, and into fresh memory; cold and warm.

This project twice: as at a start (``resume()``), and as ``restore()`` does it, which reads everything twice. Cold: its
files are taken out of the page cache first. In both ways the clock stops when every byte has been read into memory: a
library that maps its file and returns is made to touch every page.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import pages
from benchmarks.bars import Bar
from benchmarks.limits import copy_seconds, read_seconds, write_seconds
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.subjects import Bare, size_of
from benchmarks.systems import BY_NAME, OWN, System, make
from benchmarks.turns import LIMIT, Sample, Turn, Turns, take

BARS = (
    Bar("restore cold: rate / direct read", 0.9, at_least=True),
    Bar("restore warm / safetensors", 1.2),
    Bar("load cold: rate / direct read", 0.9, at_least=True),
)

NUMEL = 8 << 20
"""Numbers in each of 64 tensors."""

WAYS = ("restore cold", "restore warm", "load cold", "load warm")


def run(options: Options) -> Report:
    """Every system in turn."""
    turns = take("restore", [OWN, BY_NAME, LIMIT, *options.peers], options.turns(3), options)
    limits = turns.of(LIMIT)
    case = f"{limits[0]['bytes'] / 1e9:.2f} GB"
    rows = [r for name in turns.systems for r in _rows(turns, case, name)]
    rows += [
        row("restore", case, "limit: direct read", "restore cold", "s", [s["read"] for s in limits]),
        row("restore", case, "limit: memory copy", "restore warm", "s", [s["copy"] for s in limits]),
    ]
    return Report(rows, turns.notes, turns.disturbed)


def _rows(turns: Turns, case: str, name: str) -> list[Row]:
    found = turns.of(name)
    rows = [row("restore", case, name, way, "s", [s[way] for s in found]) for way in WAYS]
    for way in ("restore", "load"):
        times = turns.against(name, f"{way} cold", "read", lambda _: True)
        rows.append(row("restore", case, name, f"{way} cold: rate / direct read", "x", [1 / time for time in times]))
        if warm := [s[f"{way} warm"] for s in turns.of("safetensors")]:
            best = row("restore", case, "safetensors", way, "s", warm).median
            ratios = [s[f"{way} warm"] / best for s in found]
            rows.append(row("restore", case, name, f"{way} warm / safetensors", "x", ratios))
    return rows


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: one save, then both ways of reading it, twice each."""
    subject = Bare(64, NUMEL // 64 if turn.quick else NUMEL)
    _, nbytes = size_of(subject)
    repeats = 1 if turn.quick else 2
    if turn.system == LIMIT:
        path = turn.folder / "limit"
        write_seconds(nbytes, path)
        return [{"bytes": nbytes, "read": read_seconds(path), "copy": copy_seconds(nbytes)} for _ in range(repeats)]
    root = turn.folder / "saves"
    system = make(turn.system, subject, root)
    system.save(1)
    system.wait()
    _check(subject, system)
    samples = []
    for _ in range(repeats):
        sample: Sample = {}
        for way, read in (("restore", system.restore), ("load", lambda: _touched(system))):
            pages.drop(root)
            sample[f"{way} cold"] = _timed(read)
            read()  # twice read, all of it is in the page cache, whichever way it was read at first
            sample[f"{way} warm"] = _timed(read)
        samples.append(sample)
    system.close()
    return samples


def _check(subject: Bare, system: System) -> None:
    """Numbers of a system that restores something else are worth nothing."""
    saved = [tensor.detach().clone() for tensor in subject.model]
    subject.step()
    system.restore()
    assert all(map(torch.equal, saved, subject.model))
    loaded = list(system.load().values())
    assert sum(t.numel() for t in loaded if t.dtype == torch.float32) == sum(t.numel() for t in saved)
    assert all(any(torch.equal(a, b) for b in loaded) for a in saved)


def _touched(system: System) -> None:
    for tensor in system.load().values():
        _read(tensor)


def _read(tensor: Tensor) -> None:
    """One number of each page."""
    tensor.reshape(-1)[:: 4096 // tensor.itemsize].sum()


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
