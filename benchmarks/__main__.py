"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME [options]`` runs one."""

from __future__ import annotations

import argparse
import compileall
import importlib
from pathlib import Path
from typing import Any

import asyncckpt
import benchmarks
from benchmarks import machine
from benchmarks.options import Options
from benchmarks.results import Report, write_json
from benchmarks.systems import PEERS, QUICK_PEERS
from benchmarks.table import show

NAMES = {
    "stall": "how long one save holds the training thread, at 1,000 tensors and 1.5 GB, and in the README's example",
    "overhead": "what saving back to back costs a training loop of 1.5 GB of state, against no saving",
    "throughput": "from the save call to durable, 4 GB",
    "restore": "back into a training and into fresh memory, 2 GB, cold and warm",
    "small_tensors": "20,000 tensors, 0.64 GB: the save call, and to durable beside one tensor of as many bytes",
    "incremental": "bytes on disk of a save after 1 % of the state has changed",
    "catalog": "10,000 checkpoints: list them, find the latest, save one and prune one",
    "serve": "the page over 10,000 checkpoints: its first look, the next one, and one after a save",
    "memory": "1,000 saves: memory, threads, descriptors, and those of the worker process",
    "python_bound": "saves back to back beside a loop that needs the interpreter lock, and one that loads its data so",
    "interference": "how much longer steps take while saves are in flight, uncontrolled and paced to 2 %",
    "chunks": "what the size of the copies into staging memory costs a training",
    "executor": "how long a worker process takes to start, and which sizes of state are worth one",
    "run_layer": "how much longer a step takes for the log, the metrics and the checkpoint log of its run",
    "trainer": "how much longer a step takes with the trainer around it",
    "survive": "100 trainers killed right after staging and started again at once",
    "upload": "from the call until an S3 server has it, 0.5 GB; memory, CPU, and a Python loop meanwhile",
    "download": "from an S3 server back into the memory that it came from, 0.5 GB",
    "resume": "a training killed and started again from an S3 server: from the kill to its first step, 0.5 GB",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="the benchmark to run; without it, the list")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small and without bars: only to see that it runs",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write one JSON object per row")
    parser.add_argument("--peers", nargs="*", metavar="PEER", help="only these; none if empty")
    parser.add_argument("--rounds", type=int, help="turns of each system")
    parser.add_argument("--scratch", type=Path, default=Path(), help="folder on the disk to measure")
    asked = parser.parse_args()
    if asked.name is None:
        for name, text in NAMES.items():
            print(f"{name:14} {text}")
        return
    bench: Any = importlib.import_module(f"benchmarks.{asked.name}")
    known = getattr(bench, "PEERS", PEERS)
    if unknown := set(asked.peers or ()) - set(known):
        parser.error(f"{asked.name} has no peers {', '.join(sorted(unknown))}, but {', '.join(known)}")
    _compile()
    print(machine.conditions(), flush=True)
    few = getattr(bench, "QUICK_PEERS", QUICK_PEERS)
    peers = (few if asked.quick else known) if asked.peers is None else tuple(asked.peers)
    report: Report = bench.run(Options(asked.quick, peers, asked.rounds, asked.scratch))
    print(show(report, () if asked.quick else bench.BARS))
    if asked.json:
        write_json(report.rows, asked.json)


def _compile() -> None:
    """Have the bytecode of this project there, as that of every peer is, which pip has installed and this need not be.

    Where ``PYTHONDONTWRITEBYTECODE`` is set, each process would compile 250 modules first, which takes 0.3 s.
    """
    for package in (asyncckpt, benchmarks):
        compileall.compile_dir(Path(package.__path__[0]), quiet=2)


if __name__ == "__main__":
    main()
