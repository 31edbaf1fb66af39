"""Resume: a training is killed with SIGKILL and started again at once, and reads its state from an S3 server.

How long from the kill to the end of the first step of the new process, and of that: until what it needs is imported
(``start``), until model and optimizer are there (``build``), until their state is (``read``), and the step. Beside
torch.distributed.checkpoint's ``FsspecReader``, and ``torch.load`` of what s3fs, s3torchconnector, boto3 or obstore
read.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from benchmarks.bars import Bar
from benchmarks.clients.place import place
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.resuming import MODULES
from benchmarks.server import served
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, Turns, take

__all__ = ["BARS", "PEERS", "QUICK_PEERS", "measure", "run"]

BARS = (Bar("kill to first step / best peer", 1.0),)

PEERS = tuple(name for name in MODULES if name != OWN)
QUICK_PEERS = ("dcp.fsspec", "torch.s3fs")

KILLS = 2
ROOM = 2 << 30
QUICK_ROOM = 1 << 26

PARTS = ("start", "build", "read", "step")


def run(options: Options) -> Report:
    """Every system in turn, on one server."""
    with served(options.scratch, QUICK_ROOM if options.quick else ROOM) as server:
        turns = take("resume", [OWN, *options.peers], options.turns(2), options, server)
    case = f"{turns.of(OWN)[0]['bytes'] / 1e9:.2f} GB"
    rows = [r for name in turns.systems for r in _rows(turns, case, name)]
    return Report(rows, turns.notes, turns.disturbed)


def _rows(turns: Turns, case: str, name: str) -> list[Row]:
    found = turns.of(name)
    rows = [row("resume", case, name, "kill to first step", "s", [s["whole"] for s in found])]
    rows += [row("resume", case, name, part, "s", [s[part] for s in found]) for part in PARTS]
    if peers := [peer for peer in PEERS if peer in turns.systems]:
        best = min(peers, key=lambda peer: statistics.median(s["whole"] for s in turns.of(peer)))
        ratios = turns.over(name, best, "whole")
        rows.append(row("resume", case, name, "kill to first step / best peer", "x", ratios))
    return rows


def measure(turn: Turn) -> list[Sample]:
    """Trainings one after the other, each a process of its own; the first finds nothing, and saves."""
    samples, killed = list[Sample](), 0.0
    with place(turn.endpoint) as where:
        for number in range(1 + (1 if turn.quick else KILLS)):
            arguments = [turn.system, where.url, json.dumps(where.options), str(int(turn.quick)), str(int(number == 0))]
            training = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.resuming.trainer", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert training.stdout is not None
            nbytes, *ends = map(float, training.stdout.readline().split())
            if number:
                samples.append(_sample(killed, ends) | {"bytes": nbytes})
            training.kill()
            killed = time.monotonic()
            training.communicate()
    return samples


def _sample(killed: float, ends: list[float]) -> Sample:
    """How long each part took, from when each ended."""
    begins = [killed, *ends]
    return {"whole": ends[-1] - killed} | {
        part: end - begin for part, begin, end in zip(PARTS, begins, ends, strict=False)
    }
