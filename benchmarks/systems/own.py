"""This project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

import asyncckpt
from asyncckpt import AsyncCheckpointer, Budget, RetentionPolicy
from asyncckpt.events import Stalled
from benchmarks.subjects import Subject, tensors_of


class Asyncckpt:
    """Its defaults but for `verify`, as staged and live bytes are compared for 1 save in 100, and at full pace."""

    executor: Literal["auto", "thread", "process"] = "auto"
    slowdown: float | None = None

    def __init__(self, subject: Subject, root: Path, keep_all: bool) -> None:
        self._root = root
        self._checkpointer = AsyncCheckpointer(
            root,
            model=subject.model,
            optimizer=subject.optimizer,
            extra=subject.extra,
            keep=None if keep_all else RetentionPolicy(last=1),
            verify="off",
            listeners=[self],
            executor=self.executor,
            budget=Budget(slowdown=self.slowdown),
        )
        self.waited = 0.0
        self._handle: Any = None

    def after_step(self, step: int) -> None:
        self._checkpointer.step(step)

    def save(self, step: int) -> None:
        self._handle = self._checkpointer.save(step)

    def before_update(self) -> None:
        # The hooks of optimizer and average have waited by now; what has neither is guarded by this call.
        self._checkpointer.before_mutation()

    def on_event(self, event: object) -> None:
        """Add up what its hooks waited."""
        if isinstance(event, Stalled) and event.where == "guard":
            self.waited += event.seconds

    def wait(self) -> None:
        self._handle.wait()

    def prune(self) -> None:
        """Retention does; it has run once this returns."""
        self._checkpointer.wait()

    def load(self) -> Mapping[str, Tensor]:
        return tensors_of(asyncckpt.load(self._root).state)

    def restore(self) -> None:
        self._checkpointer.resume()

    def close(self) -> None:
        self._checkpointer.close()


class ByName(Asyncckpt):
    """Restores so that nothing is changed before all of it is known to be right."""

    def restore(self) -> None:
        self._checkpointer.restore()


class InThread(Asyncckpt):
    """Written by a thread of the training's process."""

    executor = "thread"


class InProcess(Asyncckpt):
    """Written by a process of its own, however small the state."""

    executor = "process"


class Paced(InProcess):
    """So that a step takes 2 % longer at most, which is the default."""

    slowdown = 0.02

    def prune(self) -> None:
        """Retention does. Who waits for it hurries it, and so what comes next."""
