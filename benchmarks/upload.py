"""Upload: from the call until an S3 server on this machine has every byte; its memory, its CPU, and the loop meanwhile.

This project as a save (staging, digests and commit included), with a worker process and with a thread, and its store
alone; beside other clients that are given the same number of bytes, and beside sockets that do nothing but send.
"""

from __future__ import annotations

import threading
import time

from benchmarks import pauses
from benchmarks.bars import Bar
from benchmarks.clients import IN_PYTHON, PEERS, QUICK_PEERS, S3FS, STORE, Client, Wait, make
from benchmarks.clients.place import place
from benchmarks.held import Sampled, cpu_seconds, unshared
from benchmarks.moving import best, compared, size
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.systems import OWN, THREAD
from benchmarks.turns import LIMIT, Sample, Turn, Turns

__all__ = ["BARS", "PEERS", "QUICK_PEERS", "measure", "run"]

BARS = (
    Bar("rate / best client", 0.9, at_least=True),
    Bar("memory above the arena", 64),
    Bar("longest step / least in Python", 1.0),
)

STORED = 8
"""Times the bytes, of which the server holds that much at most before a turn's bucket goes."""

SAMPLES = 2


def run(options: Options) -> Report:
    """Every client in turn, on one server."""
    own = [OWN] if options.quick else [OWN, THREAD, STORE, S3FS]
    return compared("upload", own, STORED, options, _rows)


def _rows(turns: Turns, case: str, name: str) -> list[Row]:
    found, system = turns.of(name), "limit: bare sockets" if name == LIMIT else name

    def of(metric: str, unit: str, samples: list[float]) -> Row:
        return row("upload", case, system, metric, unit, samples)

    rows = [
        of("durable", "s", [s["durable"] for s in found]),
        of("rate", "GB/s", [s["rate"] for s in found]),
        of("CPU", "s/GB", [s["cpu"] for s in found]),
        of("longest step", "ms", [s["step"] * 1e3 for s in found]),
        of("memory above the arena", "MiB", [max(s["memory"] for s in found) / 2**20]),
    ]
    if name == LIMIT:
        return rows
    rows.append(of("rate / bare sockets", "x", turns.over(name, LIMIT, "rate")))
    if fastest := best(turns, PEERS, "rate", most=True):
        rows.append(of("rate / best client", "x", turns.over(name, fastest, "rate")))
    if calmest := best(turns, IN_PYTHON, "step", most=False):
        rows.append(of("longest step / least in Python", "x", turns.over(name, calmest, "step")))
    return rows


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: each sample is one upload by itself, and one beside the loop."""
    with place(turn.endpoint) as where:
        client = make(turn.system, where, size(quick=turn.quick))
        client.open()
        samples = _measured(client, turn)
        client.close()
    return samples


def _measured(client: Client, turn: Turn) -> list[Sample]:
    nbytes, before = size(quick=turn.quick), unshared()
    samples = list[Sample]()
    with Sampled(unshared) as sampled:
        if not turn.quick:
            client.begin(1)()
        for number in range(1 if turn.quick else SAMPLES):
            client.change()
            used, began = cpu_seconds(), time.perf_counter()
            client.begin(2 + 2 * number)()
            seconds = time.perf_counter() - began
            sample = {
                "durable": seconds,
                "rate": nbytes / seconds / 1e9,
                "cpu": (cpu_seconds() - used) / nbytes * 1e9,
                "memory": sampled.take() - before,
            }
            client.change()
            samples.append(sample | {"step": _longest_step(client, 3 + 2 * number)})
    return samples


def _longest_step(client: Client, number: int) -> float:
    """The longest step of a training thread that begins an upload and goes on; the call is one, too."""
    began = time.perf_counter()
    uploading = _Uploading(client.begin(number))
    called = time.perf_counter() - began
    longest = pauses.longest_step(lambda: not uploading.is_alive())
    uploading.join()
    if uploading.failure is not None:
        raise uploading.failure
    return max(called, longest)


class _Uploading(threading.Thread):
    """Waits for one upload, which for most clients is where it happens."""

    failure: BaseException | None = None

    def __init__(self, wait: Wait) -> None:
        super().__init__()
        self._wait_for = wait
        self.start()

    def run(self) -> None:
        try:
            self._wait_for()
        except BaseException as failure:  # a thread's entry: raised by who began it
            self.failure = failure
