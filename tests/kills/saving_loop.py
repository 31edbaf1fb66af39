"""A saving loop to be killed: a small state, a save at every step, one line on stdout per durable step.

Run as a program it is a zygote: for each line on stdin it forks a trainer, so that 200 kills do not import torch
200 times. A line is the number of milliseconds after the first durable save at which the trainer is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.events import Durable, Event
from asyncckpt.retention import Monitor
from asyncckpt.state.stateful import State

MONITOR: Monitor = ("score", "min")
KEEP = RetentionPolicy(last=3, best=2, every_steps=40)


def score(step: int) -> float:
    """A metric without a trend."""
    return step * 7919 % 1009


class Counter:
    """A state in which every element tells the step, so that a torn snapshot or a wrong share would show.

    One tensor changes at every step, one at every fourth, one never: most saves share two of them.
    """

    def __init__(self) -> None:
        self.step = 0
        self.values = torch.zeros(300_000, dtype=torch.int64)
        self.slow = torch.zeros(100_000, dtype=torch.int64)
        self.frozen = torch.arange(100_000)

    def advance(self) -> None:
        self.step += 1
        self.values.fill_(self.step)
        self.slow.fill_(self.step // 4)

    def state_dict(self) -> State:
        return {"step": self.step, "values": self.values, "slow": self.slow, "frozen": self.frozen}

    def load_state_dict(self, state: State) -> None:
        self.step = state["step"]
        for name in ("values", "slow", "frozen"):
            getattr(self, name).copy_(state[name])

    def is_whole(self) -> bool:
        """Whether every element is of this step."""
        return bool(
            (self.values == self.step).all()
            and (self.slow == self.step // 4).all()
            and torch.equal(self.frozen, torch.arange(100_000))
        )


class Telling:
    """Writes each durable step to a pipe; what it wrote is known to whoever reads after the kill."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_event(self, event: Event) -> None:
        if isinstance(event, Durable):
            os.write(self.pipe, b"%d\n" % event.step)


class Turns:
    """Whoever trains may make so many steps for each line that comes on stdin, and no more for those that came before.

    Readers so know how often a checkpoint can be removed under them, however slow the machine has made them.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._left = 0

    def take(self) -> None:
        """Return once there may be another step."""
        while self._left == 0 or select.select([sys.stdin], [], [], 0)[0]:
            if not os.read(sys.stdin.fileno(), 1 << 16):
                os._exit(3)  # nobody reads here any more
            self._left = self._steps
        self._left -= 1


def train(root: Path, pipe: int, turns: Turns | None = None) -> None:
    """Resume, then save at every step, as fast as it goes, or as fast as it may."""
    counter = Counter()
    checkpointer = AsyncCheckpointer(
        root, extra={"counter": counter}, keep=KEEP, monitor=MONITOR, listeners=[Telling(pipe)]
    )
    checkpointer.resume()
    while True:
        if turns is not None:
            turns.take()
        counter.advance()
        checkpointer.save(counter.step, metrics={"score": score(counter.step)})


def kill_after(root: Path, milliseconds: int) -> list[int]:
    """Fork a trainer, kill it some time after its first durable save; returns the steps it reported durable."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        train(root, writing)
        os._exit(3)
    os.close(writing)
    lines = os.read(reading, 1 << 16)
    deadline = time.monotonic() + milliseconds / 1000
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            lines += os.read(reading, 1 << 16)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reading, 1 << 16):
        lines += more
    os.close(reading)
    return [int(line) for line in lines.split()]


def main() -> None:
    """Serve kills: a line in, a line out."""
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(kill_after(root, int(line))), flush=True)


if __name__ == "__main__":
    main()
