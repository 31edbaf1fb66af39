"""What the tests of the checkpointer train, and how they look at what happened."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, CheckpointInfo, SaveHandle
from asyncckpt.events import Event
from asyncckpt.lifecycle import living
from asyncckpt.saves.handle import wait_all
from asyncckpt.saves.waiting import Waiting
from asyncckpt.testing.slow import PATIENCE, GatedStorage

E = TypeVar("E", bound=Event)

ONE_GENERATION = 3 * mmap.PAGESIZE
"""A budget for a single arena of a `Toy`, which takes one page or two."""


class Toy(nn.Module):
    """A model whose every weight is the same number; without an optimizer its tensors are copied EAGER."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((8, 8), float(value)))

    @property
    def value(self) -> float:
        """The one number; raises if the weights are not all the same."""
        low, high = self.weight.min().item(), self.weight.max().item()
        assert low == high
        return low

    @value.setter
    def value(self, value: float) -> None:
        self.weight.data.fill_(value)


class Big(Toy):
    """Of as much as is read straight to where it belongs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1024, 512))


class Training:
    """A real model and optimizer, whose tensors are copied LAZY."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(16, 16)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def step(self) -> None:
        self.model(torch.ones(4, 16)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Recorder:
    """A listener that keeps what it was told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def on_event(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in tuple(self.events) if isinstance(event, kind)]

    def wait_for(self, kind: type[E], count: int = 1) -> list[E]:
        """Return once `count` events of `kind` have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(kind)) >= count, PATIENCE), f"no {kind.__name__}"
        return self.of(kind)


def refuse_threads(patch: pytest.MonkeyPatch, name: str) -> None:
    """From now on no thread of this name can be started, as on a machine that has too many."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        real(thread)

    patch.setattr(threading.Thread, "start", start)


def calls_of(thread: int) -> list[str]:
    """The functions that a thread is in now, innermost first."""
    frame = sys._current_frames().get(thread)
    return [inner.f_code.co_name for inner, _ in traceback.walk_stack(frame)] if frame else []


def once_it_waits(inside: str, then: Callable[[], object]) -> threading.Thread:
    """Call `then` in another thread as soon as this one waits for something in a function named `inside`."""
    me, deadline = threading.get_ident(), time.monotonic() + PATIENCE

    def watch() -> None:
        while time.monotonic() < deadline:
            calls = calls_of(me)
            if calls[0] == "wait" and inside in calls:
                break
            time.sleep(0.001)
        else:
            then()
            raise AssertionError(f"nothing waits in {inside}")
        then()

    watching = threading.Thread(target=watch)
    watching.start()
    return watching


class CtrlC:
    """Ctrl-C in the main thread, heard once and for certain, also where a shell that began the tests has it ignored.

    A signal that comes between CPython's last look for one and the wait for a lock is noted and wakes nobody: a person
    presses again, and so does `press`.
    """

    def __init__(self) -> None:
        self._is_heard = False
        self._former = signal.signal(signal.SIGINT, self._hear)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if not self._is_heard:
            self._is_heard = True
            raise KeyboardInterrupt

    def press(self) -> None:
        """To be called in another thread; returns when the main one has heard of it."""
        main = threading.main_thread().ident
        assert main is not None
        while not self._is_heard:
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.02)

    def restore(self) -> None:
        signal.signal(signal.SIGINT, self._former)


def steps(listed: AsyncCheckpointer | list[CheckpointInfo]) -> list[int]:
    """The steps that are listed, oldest first."""
    found = listed.checkpoints() if isinstance(listed, AsyncCheckpointer) else listed
    return [info.step for info in found]


class Elsewhere(GatedStorage):
    """A store as another process has it: under a name that the first one's checkpointer is not known by."""

    @property
    def url(self) -> str:
        return f"{self.inner.url}-elsewhere"


def elsewhere(patch: pytest.MonkeyPatch) -> None:
    """Checkpointers made from now on are, as in another process, not known to be of the same root as those before."""
    patch.setattr(living, "_living", weakref.WeakValueDictionary())


def saved(root: Path, *values: int, extra: dict[str, Any] | None = None) -> None:
    """A finished run in `root` with a checkpoint at each of the steps `values`, every weight that number."""
    toy = Toy()
    with AsyncCheckpointer(root, model=toy, extra=extra) as ckpt:
        for value in values:
            toy.value = value
            ckpt.save(value).wait()


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below `folder`, with what would betray a write: inode, size and time of the last change."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        stat = path.lstat()
        found[str(path)] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def start(script: str, *arguments: object, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Run `script` in a new interpreter."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, output and errors of a process that ends by itself.

    On a machine that has much else to do it takes the better part of a minute to import torch.
    """
    try:
        out, errors = process.communicate(timeout=4 * PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, errors


def until_over(handle: SaveHandle) -> None:
    """Return once a save has ended; nobody has been told how by this."""
    assert wait_all([handle], Waiting(PATIENCE)) == []


def worker_of(ckpt: AsyncCheckpointer) -> int:
    """The number of the worker process that serves `ckpt` now."""
    deadline = time.monotonic() + PATIENCE
    while (link := ckpt._executor._exchange.link) is None or link.process.returncode is not None:
        assert time.monotonic() < deadline, "no worker process"
        time.sleep(0.001)
    return int(link.process.pid)
