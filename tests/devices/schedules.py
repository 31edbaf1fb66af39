"""Random schedules: a training that saves at every step, with everything about it left to chance."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

import asyncckpt
from asyncckpt import AsyncCheckpointer, SaveHandle, guarded
from asyncckpt.errors import AsyncCkptError, SaveSkipped
from asyncckpt.revision import Lookup
from asyncckpt.staging import backlog, lane, pieces
from asyncckpt.testing import simacc

from .trainings import Training, differing, side, tensors

_KINDS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.AdamW, {"foreach": True}),
    (torch.optim.Adam, {}),
]


class Halves:
    """A state that is made anew at each save."""

    def __init__(self, training: Training) -> None:
        self.weight = training.model.first.weight

    def state_dict(self) -> dict[str, Tensor]:
        return {"half": (self.weight.detach() / 2).t(), "twice": self.weight.detach() * 2}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        raise NotImplementedError


class Schedule:
    """One of them; what `seed` decides, it decides alike each time."""

    def __init__(self, seed: int, patch: pytest.MonkeyPatch) -> None:
        self.chance = random.Random(seed)
        kind, options = self.chance.choice(_KINDS)
        self.training = Training(kind, **options)
        self.extra = Halves(self.training)
        patch.setattr(pieces, "GROUP", self.chance.choice([32 << 20, 2048, 512]))
        patch.setattr(lane, "STRAIGHT", self.chance.choice([1 << 20, 256, 1]))
        patch.setattr(lane, "SCRATCH", self.chance.choice([256 << 20, 256 << 20, 0]))
        patch.setattr(backlog, "MOST", self.chance.choice([128 << 20, 2048, 1]))
        patch.setattr(Lookup, "known", lambda _: None)  # saves are skipped while the first one's manifest waits for git
        simacc.configure(
            kernel_latency=self.chance.choice([0, 0, 1e-5]),
            copy_latency=self.chance.choice([0, 0, 1e-4]),
            d2h_bw=self.chance.choice([0, 0, 2e8]),
            poison=self.chance.choice([1, 2]),
        )
        self.other = torch.Stream(device=self.training.device)
        self.wanted: dict[int, dict[str, Tensor]] = {}

    def run(self) -> list[str]:
        """What is wrong with what was saved, races not counted."""
        guard = guarded if self.chance.random() < 0.5 else (lambda target: target)
        handles = []
        with self.training.checkpointer(
            extra={"halves": guard(self.extra)},
            verify=self.chance.choice(["off", "always", "sample"]),
            generations=self.chance.choice([1, 2, 3]),
            on_failure="warn",
        ) as checkpointer:
            for step in range(1, 5):
                self.wanted[step] = self._state()  # waits for the device: gates are open here
                handles.append(self._saved(checkpointer, step))
                if self.chance.random() < 0.2:
                    with suppress(SaveSkipped):  # the one before it is still being written
                        handles[-1].wait_staged()
            self._settle(checkpointer)
        return [trouble for handle in handles for trouble in self._judged(handle)]

    def _state(self) -> dict[str, Tensor]:
        return self.training.state() | tensors({"extra": {"halves": self.extra.state_dict()}})

    def _saved(self, checkpointer: AsyncCheckpointer, step: int) -> SaveHandle:
        gate = simacc.hold(side()) if self.chance.random() < 0.5 else None
        busy = self.chance.choice(["coalesce", "skip", "wait"])
        # Where it waits its turn, or queues what is EAGER by itself, the call may have to wait for the device.
        if gate is not None and (busy != "skip" or lane.SCRATCH == 0):
            opening = threading.Timer(self.chance.choice([0, 0.002]), gate)
            opening.start()
        else:
            opening = None
        if self.chance.random() < 0.3:
            checkpointer.before_mutation()
        handle = checkpointer.save(step, on_busy=busy)
        self.training.forward_backward()
        self._step()
        if opening is not None:
            opening.join()
        if gate is not None:
            gate()
        return handle

    def _step(self) -> None:
        current = torch.accelerator.current_stream()
        if self.chance.random() < 0.3:
            self.other.wait_stream(current)
            with self.other:
                self.training.optimizer.step()
            current.wait_stream(self.other)
        else:
            self.training.optimizer.step()
        self.training.optimizer.zero_grad()

    def _settle(self, checkpointer: AsyncCheckpointer) -> None:
        with suppress(AsyncCkptError):  # it is on its handle
            checkpointer.wait()

    def _judged(self, handle: SaveHandle) -> list[str]:
        if handle.status in ("skipped", "superseded"):
            return []
        if handle.status != "durable":
            return [f"step {handle.step} {handle.status}: {handle.error}"]
        try:
            found = asyncckpt.load(self.training.store, handle.step).state
        except AsyncCkptError as error:  # digested and written at different times
            return [str(error)]
        return differing(tensors({k: v for k, v in found.items() if k != "rng"}), self.wanted[handle.step])


def trouble(seed: int, patch: pytest.MonkeyPatch) -> list[str]:
    """All that is found wrong with one schedule."""
    torch.accelerator.synchronize()
    simacc.forget()  # of threads that have ended, or each schedule takes longer than the one before
    found = Schedule(seed, patch).run()
    torch.accelerator.synchronize()
    simacc.reset_knobs()
    return found + simacc.races()
