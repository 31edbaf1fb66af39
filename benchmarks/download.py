"""Download: from an S3 server on this machine back into the memory that the bytes came from.

This project as a resuming training does it (``resume()``: manifest, ranges, digests, into live tensors), and its store
alone; beside other clients, and beside sockets that do nothing but receive.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.bars import Bar
from benchmarks.clients import PEERS, QUICK_PEERS, S3FS, STORE, Client, make
from benchmarks.clients.place import place
from benchmarks.held import Sampled, cpu_seconds, unshared
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.server import served
from benchmarks.systems import OWN
from benchmarks.turns import LIMIT, Sample, Turn, Turns, take

__all__ = ["BARS", "PEERS", "QUICK_PEERS", "measure", "run"]

BARS = (Bar("rate / best client", 0.9, at_least=True),)

NBYTES = 512 << 20
QUICK_NBYTES = 64 << 20

SAMPLES = 4


def run(options: Options) -> Report:
    """Every client in turn, on one server."""
    nbytes = QUICK_NBYTES if options.quick else NBYTES
    own = [OWN] if options.quick else [OWN, STORE, S3FS]
    with served(options.scratch, 2 * nbytes) as server:
        turns = take("download", [*own, LIMIT, *options.peers], options.turns(3), options, server)
    case = f"{nbytes / 1e9:.2f} GB"
    rows = [r for name in (*turns.systems, LIMIT) for r in _rows(turns, case, name)]
    return Report(rows, turns.notes, turns.disturbed)


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
    if peers := [peer for peer in PEERS if peer in turns.systems]:
        best = max(peers, key=lambda peer: statistics.median(s["rate"] for s in turns.of(peer)))
        rows.append(of("rate / best client", "x", turns.over(name, best, "rate")))
    return rows


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: one upload, then downloads."""
    nbytes = QUICK_NBYTES if turn.quick else NBYTES
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
