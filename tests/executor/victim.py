"""A trainer that is killed at a chosen moment, with its saves in a worker process.

Run as a program it is a zygote: for each line on stdin (a root, the name of a moment and its arguments, as JSON) it
forks a trainer, so that many kills import torch once. It answers with what the trainer said, a list, and how it ended.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from asyncckpt import AsyncCheckpointer, ProcessConfig, RetentionPolicy
from asyncckpt.events import Durable, Event, Retained, TierDurable
from asyncckpt.state.stateful import State
from asyncckpt.testing.shared import Joined
from asyncckpt.worker.process.channel import Channel
from asyncckpt.worker.process.link import Link
from asyncckpt.worker.watermark import Watermark

SIZE = 3_000_000


class Counter:
    """A state in which every element tells the step: 24 MB, so that it is staged long before it is durable."""

    def __init__(self) -> None:
        self.step = 0
        self.values = torch.zeros(SIZE, dtype=torch.int64)

    def advance(self) -> None:
        self.step += 1
        self.values.fill_(self.step)

    def state_dict(self) -> State:
        return {"step": self.step, "values": self.values}

    def load_state_dict(self, state: State) -> None:
        self.step = state["step"]
        self.values.copy_(state["values"])

    def is_whole(self) -> bool:
        """Whether every element is of this step."""
        return bool((self.values == self.step).all())


def die() -> None:
    """At once, and without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def link_of(ckpt: AsyncCheckpointer) -> Link:
    """To the worker process."""
    executor: Any = ckpt._executor
    link: Link = executor._exchange.link
    return link


class Victim:
    """One trainer; each public method is a way to die."""

    def __init__(self, root: Path, say: Callable[[object], None]) -> None:
        self.root = root
        self.say = say
        self.counter = Counter()
        self.mirrored = threading.Event()

    def checkpointer(self, **options: Any) -> AsyncCheckpointer:
        options = {"verify": "off", "executor": "process", "extra": {"counter": self.counter}, **options}
        ckpt = AsyncCheckpointer(self.root, **options)
        ckpt.resume()
        return ckpt

    def save(self, ckpt: AsyncCheckpointer) -> Any:
        self.counter.advance()
        return ckpt.save(self.counter.step)

    def staged(self, count: int) -> None:
        """Right after the last of `count` snapshots is staged."""
        ckpt = self.checkpointer(keep=RetentionPolicy(last=2))
        for _ in range(count - 1):
            self.save(ckpt).wait()
        handle = self.save(ckpt)
        handle.wait_staged()
        self.say(handle.status)
        die()

    def copying(self, advances: int) -> None:
        """In the middle of the copy."""
        ckpt = self.checkpointer()
        self.save(ckpt).wait()
        self.copying_at(advances)
        self.save(ckpt).wait()

    def copying_at(self, advances: int) -> None:
        """From now on, die when the watermark rises the n-th time."""
        advance, count = Watermark.advance, itertools.count(1)

        def dying(mark: Watermark, upto: int) -> None:
            if next(count) == advances:
                die()
            advance(mark, upto)

        mock.patch.object(Watermark, "advance", dying).start()

    def copying_lazily(self, advances: int) -> None:
        """In the middle of the copy of what may be copied while training goes on."""
        model = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(3_000_000)) for _ in range(8)])
        optimizer = torch.optim.SGD(model.parameters())
        ckpt = self.checkpointer(model=model, optimizer=optimizer)
        self.save(ckpt).wait()
        self.copying_at(advances)
        self.save(ckpt).wait()

    def telling(self, number: int) -> None:
        """Right before message `number` of a first save is sent."""
        post, count = Channel.post, itertools.count()

        def dying(channel: Channel, message: Any, *arguments: Any, **options: Any) -> None:
            if next(count) == number:
                die()
            self.say(message["kind"])
            post(channel, message, *arguments, **options)

        mock.patch.object(Channel, "post", dying).start()
        ckpt = AsyncCheckpointer(self.root, extra={"counter": self.counter}, executor="process", verify="off")
        self.save(ckpt).wait()
        ckpt.wait()
        die()

    def at_once(self) -> None:
        """Right after a first snapshot is staged, which was made as soon as there was a checkpointer."""
        ckpt = AsyncCheckpointer(self.root, extra={"counter": self.counter}, executor="process", verify="off")
        self.save(ckpt).wait_staged()
        die()

    def deaf(self) -> None:
        """With answers of the worker that nobody has read, and last words that the worker has not read.

        A listener holds the thread that would read, and a signal the worker, which the kernel lets go on when its
        parent dies.
        """
        holds = threading.Event()

        class Holds:
            def on_event(self, event: Event) -> None:
                if isinstance(event, Retained) and holds.is_set():
                    threading.Event().wait()

        ckpt = self.checkpointer(listeners=[Holds()])
        holds.set()
        self.save(ckpt).wait()
        link = link_of(ckpt)
        self.save(ckpt).wait_staged()
        select.select([link.channel.fileno()], [], [])
        os.kill(link.process.pid, signal.SIGSTOP)
        # Only what has stopped by then is let go on: whoever stops later would stay stopped.
        os.waitid(os.P_PID, link.process.pid, os.WSTOPPED | os.WNOWAIT)
        self.save(ckpt).wait_staged()
        die()

    def forking(self, count: int) -> None:
        """While a child that it forked, behind Python's back, holds everything open that it had."""
        ckpt = self.checkpointer()
        self.save(ckpt).wait()
        libc = ctypes.CDLL(None)
        child = libc.fork()
        if child == 0:
            libc.pause()
        self.say(child)
        self.save(ckpt).wait_staged()
        die()

    def leading(self, signal_: int) -> None:
        """Together with its whole process group, by a signal."""
        os.setpgid(0, 0)
        ckpt = self.checkpointer()
        self.save(ckpt).wait()
        self.save(ckpt).wait_staged()
        signal.signal(signal_, signal.SIG_DFL) if signal_ != signal.SIGKILL else None
        os.killpg(0, signal_)

    def hanging(self, root: str, name: str, saves: int, deadline: float) -> None:
        """With a store that the test holds, and a worker that may wait for it for `deadline` seconds."""
        store, limits = Joined(root, name), ProcessConfig(deadline=deadline)
        options: Any = {"extra": {"counter": self.counter}, "executor": limits, "verify": "off", "overwrite": True}
        ckpt = AsyncCheckpointer(store, keep=RetentionPolicy(last=2), **options)
        for _ in range(saves):
            self.save(ckpt).wait()
        self.save(ckpt).wait_staged()
        self.say(link_of(ckpt).process.pid)
        die()

    def mirroring(self, mirror: str, name: str) -> None:
        """While the second of two checkpoints is on its way to a mirror that the test holds."""
        ckpt = self.checkpointer(mirror=Joined(mirror, name), listeners=[self])
        self.save(ckpt).wait()
        self.mirrored.wait()
        self.save(ckpt).wait()
        self.say(2)
        die()

    def landing(self, root: str, name: str, local: str, executor: str) -> None:
        """With its worker, while the second of two checkpoints is on the local tier, and the test holds the root."""
        options: Any = {"extra": {"counter": self.counter}, "executor": executor, "verify": "off"}
        ckpt = AsyncCheckpointer(Joined(root, name), local=local, **options)
        self.save(ckpt).wait()
        self.say(self.save(ckpt).wait(tier="local").step)
        if executor == "process":
            os.kill(link_of(ckpt).process.pid, signal.SIGKILL)
        die()

    def on_event(self, event: Event) -> None:
        if isinstance(event, TierDurable):
            self.say(event.step)
            self.mirrored.set()

    def durable(self, count: int) -> None:
        """After saves that it was told are durable, with more on their way."""

        class Says:
            def on_event(_, event: Event) -> None:
                if isinstance(event, Durable):
                    self.say(event.step)

        ckpt = self.checkpointer(listeners=[Says()], keep=RetentionPolicy(last=2))
        for _ in range(count):
            self.save(ckpt)
        die()


def _fork(root: Path, moment: str, arguments: list[Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            victim = Victim(root, lambda said: os.write(writing, json.dumps(said).encode() + b"\n") and None)
            getattr(victim, moment)(*arguments)
        finally:
            os._exit(3)
    os.close(writing)
    said = b""
    status = os.waitpid(child, 0)[1]
    os.set_blocking(reading, False)  # a child of the child may hold it open
    try:
        while more := os.read(reading, 1 << 16):
            said += more
    except BlockingIOError:
        pass
    os.close(reading)
    return {"said": [json.loads(line) for line in said.splitlines()], "status": status}


def main() -> None:
    """Serve deaths: a line in, a line out."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        root, moment, *arguments = json.loads(line)
        print(json.dumps(_fork(Path(root), moment, arguments)), flush=True)


if __name__ == "__main__":
    main()
