"""Serve: how long the page takes to answer over a run of 10,000 checkpoints, in a folder on this machine.

The run has the logs that a training leaves: a row of three metrics for each step, and what became of each of its
15,000 saves. Measured is from the request until the whole answer is there, over a real connection, of a server that
was started for it and has just said where it is: the first look reads all there is. The second finds nothing new. Then
one more checkpoint is saved, and the page asks again, as one that is open does. No peer has such a page.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncckpt import AsyncCheckpointer
from asyncckpt.metrics_log.rows import encode
from benchmarks.bars import Bar
from benchmarks.options import Options
from benchmarks.records import make_run, model
from benchmarks.results import Report, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

COUNT, QUICK_COUNT = 10_000, 200
REPEATS = 5
PAUSE = 1.1
"""Seconds after which a folder is looked at again."""

BARS = (Bar("first look", 1.0), Bar("second look", 0.1), Bar("look after a save", 0.5))


def run(options: Options) -> Report:
    """One process after the other."""
    turns = take("serve", [OWN], options.turns(2), options)
    found = turns.of(OWN)
    case = f"{found[0]['count']:,.0f} checkpoints"
    names = [bar.metric for bar in BARS]
    rows = [row("serve", case, OWN, name, "s", [s[name] for s in found if name in s]) for name in names]
    return Report(rows, turns.notes, turns.disturbed)


def measure(turn: Turn) -> list[Sample]:
    """One process's turn: a server for each first look."""
    count = QUICK_COUNT if turn.quick else COUNT
    root = turn.folder / "run"
    make_run(root, count)
    _log(root / "logs", count)
    samples = list[Sample]()
    for number in range(1 if turn.quick else REPEATS):
        with _served(root) as address:
            sample = {"count": float(count), "first look": _asked(address), "second look": _asked(address)}
            _save(root, count + 1 + number)
            time.sleep(PAUSE)
            samples.append({**sample, "look after a save": _asked(address)})
    return samples


def _log(folder: Path, count: int) -> None:
    """The metrics log and the checkpoint log of `count` steps, of which each is saved, and every other twice."""
    folder.mkdir()
    began = time.time() - count
    with (folder / "metrics.jsonl").open("wb") as metrics, (folder / "checkpoints.jsonl").open("wb") as saves:
        for step in range(1, count + 1):
            moment = began + step
            metrics.write(encode(step, moment, {"loss": 1 / step, "lr": 1e-3, "grad_norm": 1 + 1 / step}))
            told = {"seq": step, "created": moment, "seconds": 0.1, "bytes": 5000, "written": 4000, "stalled": 0.001}
            saves.write(encode(step, moment, told, "durable"))
            if step % 2:
                saves.write(encode(step, moment, {"by_step": step + 1}, "superseded"))


@contextmanager
def _served(root: Path) -> Iterator[str]:
    """Where ``asyncckpt serve`` answers, a process of its own."""
    command = [sys.executable, "-m", "asyncckpt", "serve", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split("http://")[1].split("/")[0]
        finally:
            process.terminate()


def _asked(address: str) -> float:
    """Seconds until the page of the run is there."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/run/run")
    answer = connection.getresponse()
    body = answer.read()
    seconds = time.perf_counter() - began
    connection.close()
    assert answer.status == 200
    assert body.rstrip().endswith(b"</html>")
    return seconds


def _save(root: Path, step: int) -> None:
    with AsyncCheckpointer(root, model=model()) as checkpointer:
        checkpointer.resume()
        checkpointer.save(step).wait()
