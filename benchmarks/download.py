"""Download: from an S3 server on this machine back into the memory that the bytes came from.

This project as a resuming training does it (``resume()``: manifest, ranges, digests, into live tensors), and its store
alone; beside other clients, and beside sockets that do nothing but receive.
"""

from __future__ import annotations

import time

from benchmarks.bars import Bar
from benchmarks.clients import PEERS, QUICK_PEERS, S3FS, STORE, Client, make
from benchmarks.clients.place import place
from benchmarks.held import Sampled, cpu_seconds, unshared
from benchmarks.moving import best, compared, size
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.systems import OWN
from benchmarks.turns import LIMIT, Sample, Turn, Turns

__all__ = ["BARS", "PEERS", "QUICK_PEERS", "measure", "run"]

BARS = (Bar("rate / best client", 0.9, at_least=True),)

SAMPLES = 4


def run(options: Options) -> Report:
    """Every client in turn, on one server."""
    own = [OWN] if options.quick else [OWN, STORE, S3FS]
    return compared("download", own, 2, options, _rows)


def _rows(turns: Turns, case: str, name: str) -> list[Row]:
    found, system = turns.of(name), "limit: bare sockets" if name == LIMIT else name

    def of(metric: str, unit: str, samples: list[float]) -> Row:
        return row("download", case, system, metric, unit, samples)

    rows = [
        of("read", "s", [s["read"] for s in found]),
        of("rate", "GB/s", [s["rate"] for s in found]),
        of("CPU", "s/GB", [s["cpu"] for s in found]),
        of("memory above the target", "MiB", [max(s["memory"] for s in found) / 2**20]),
    ]
    if name == LIMIT:
        return rows
    rows.append(of("rate / bare sockets", "x", turns.over(name, LIMIT, "rate")))
    if fastest := best(turns, PEERS, "rate", most=True):
        rows.append(of("rate / best client", "x", turns.over(name, fastest, "rate")))
    return rows


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: one upload, then downloads."""
    nbytes = size(quick=turn.quick)
    with place(turn.endpoint) as where:
        client = make(turn.system, where, nbytes)
        client.open()
        client.begin(1)()
        before = unshared()
        _check(client)
        with Sampled(unshared) as sampled:
            samples = [_measured(client, nbytes) for _ in range(1 if turn.quick else SAMPLES)]
            most = sampled.take() - before
        client.close()
    return [s | {"memory": most} for s in samples]


def _check(client: Client) -> None:
    """Numbers of a client that reads something else are worth nothing."""
    expected = client.checksum()
    client.clear()
    client.get()
    assert client.checksum() == expected


def _measured(client: Client, nbytes: int) -> Sample:
    used, began = cpu_seconds(), time.perf_counter()
    client.get()
    seconds = time.perf_counter() - began
    cpu = (cpu_seconds() - used) / nbytes * 1e9
    return {"read": seconds, "rate": nbytes / seconds / 1e9, "cpu": cpu}
