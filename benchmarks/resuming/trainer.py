"""The training that is killed, in a process of its own: it imports nothing but what its library needs, and the loop."""

from __future__ import annotations

import importlib
import json
import sys
import time

from benchmarks.loop import SMALL, Shape, Training
from benchmarks.resuming import MODULES, Resumes

SHAPE = Shape(layers=4, vocabulary=16384)
"""0.5 GB of state: kills and starts are what is measured, and with the loop's 1.5 GB most of a run is spent saving."""


def main(system: str, url: str, options: str, quick: str, is_first: str) -> None:
    """Resume and make a step, or, where it is the first, make a step and save.

    Then it says when each part of that had ended, by the machine's clock, and of how many bytes its state is; and waits
    to be killed.
    """
    module = importlib.import_module(f"benchmarks.resuming.{MODULES[system]}")
    ends = [time.monotonic()]
    training = Training(SMALL if int(quick) else SHAPE)
    ends.append(time.monotonic())
    resuming: Resumes = module.Resuming(training, url, json.loads(options))
    if int(is_first):
        training.step()
        resuming.save()
    else:
        resuming.read()
        ends.append(time.monotonic())
        training.step()
        ends.append(time.monotonic())
    print(training.nbytes, *ends, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
