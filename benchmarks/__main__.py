"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME [options]`` runs one."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.results import Row, print_table, write_json

NAMES = {
    "call": "how long the call of one save holds the training thread, at 1,000 tensors and 1.5 GB",
    "overhead": "what one save costs a training loop of 1.5 GB of state, beside torch.save and DCP",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="the benchmark to run; without it, the list")
    parser.add_argument("--quick", action="store_true", help="a small state and one round: only to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write one JSON object per row")
    parser.add_argument("--systems", default="", metavar="A,B", help="only these systems")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system")
    parser.add_argument("--scratch", type=Path, default=Path("."), help="folder on the disk to measure")
    options = parser.parse_args()
    if options.name is None:
        for name, text in NAMES.items():
            print(f"{name:12} {text}")
        return
    rows: list[Row] = importlib.import_module(f"benchmarks.{options.name}").run(options)
    print_table(rows)
    if options.json:
        write_json(rows, options.json)


if __name__ == "__main__":
    main()
