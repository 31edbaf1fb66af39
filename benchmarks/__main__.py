"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME [options]`` runs one."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

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
    "memory": "1,000 saves: memory, threads and descriptors",
    "python_bound": "saves back to back beside a loop that needs the interpreter lock, and one that loads its data so",
    "interference": "how much longer steps take while saves are in flight, uncontrolled and paced to 2 %",
    "device": "what one save asks of an accelerator and of the host, counted on a simulated one",
    "survive": "100 trainers killed right after staging and started again at once",
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
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="only these; none if empty")
    parser.add_argument("--rounds", type=int, help="turns of each system")
    parser.add_argument("--scratch", type=Path, default=Path(), help="folder on the disk to measure")
    asked = parser.parse_args()
    if asked.name is None:
        for name, text in NAMES.items():
            print(f"{name:14} {text}")
        return
    bench: Any = importlib.import_module(f"benchmarks.{asked.name}")
    print(machine.conditions(), flush=True)
    peers = (QUICK_PEERS if asked.quick else PEERS) if asked.peers is None else tuple(asked.peers)
    report: Report = bench.run(Options(asked.quick, peers, asked.rounds, asked.scratch))
    print(show(report, () if asked.quick else bench.BARS))
    if asked.json:
        write_json(report.rows, asked.json)


if __name__ == "__main__":
    main()
