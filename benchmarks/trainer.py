"""Trainer: how much longer a step takes with the trainer around it, beside the same steps in a bare loop.

All that it can do is on: hooks, validation, clipping, a schedule by steps, preemption, the log and the metrics of its
run, saves. Blocks take turns: before each epoch of the trainer, a bare loop makes as many steps of an equal model on
the same batches. Compared are the medians of their steps, so that those beside a save count as any other.

A save goes on beside the steps that follow it, whoever makes them: that is the checkpointer's, and the same is measured
with nothing saved meanwhile. Then what is added is the trainer's own, and what the checkpointer does at each step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asyncckpt import AsyncCheckpointer, Budget, Preemption, Run, SavePolicy
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainingCallback
from benchmarks.bars import Bar
from benchmarks.loop import SMALL, Training
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

BARS = (Bar("added", 1.0), Bar("added to a step", None))

BLOCKS, STEPS = 10, 60
QUICK_BLOCKS, QUICK_STEPS = 2, 6
EVERY = 50
"""Steps from one save to the next."""

SAVES = {
    "": SavePolicy(every_steps=EVERY, every_epochs=1),
    ", nothing saved": SavePolicy(every_steps=1_000_000, every_seconds=86_400),
}
"""By what is said of them: they are looked at after each step, due or not."""


def run(options: Options) -> Report:
    """One process after the other."""
    turns = take("trainer", [OWN], options.turns(3), options)
    bare = statistics.median(sample["bare"] for sample in turns.of(OWN))
    rows = list[Row]()
    for number, saves in enumerate(SAVES):
        case = f"a step of {bare * 1e3:.0f} ms{saves}"
        found = [sample for sample in turns.of(OWN) if sample["saves"] == number]
        rows += [
            row("trainer", case, OWN, "added", "%", [s["added"] / s["bare"] * 100 for s in found]),
            row("trainer", case, OWN, "added to a step", "ms", [s["added"] * 1e3 for s in found]),
            row("trainer", case, OWN, "a step alone", "ms", [s["bare"] * 1e3 for s in found]),
        ]
    return Report(rows, turns.notes, turns.disturbed)


def _loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


class _Trainer(GenericTrainer):
    def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        return {"loss": _loss(self.model, batch)}

    def checkpointer(self, run: Run, objects: Mapping[str, Any]) -> AsyncCheckpointer:
        config = self.config
        budget = Budget(slowdown=None)
        return AsyncCheckpointer(
            run, **objects, save=config.save, monitor=config.monitor, preemption=config.preemption, budget=budget
        )


class _Blocks(TrainingCallback):
    """Makes the bare steps, and times those of the trainer."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches
        self.alone = Training(SMALL)
        self.parameters = list(self.alone.model.parameters())
        self.schedule = _schedule(self.alone)
        self.samples: list[Sample] = []
        self._bare = 0.0
        self._steps: list[float] = []
        self._last = 0.0

    def on_epoch_start(self, trainer: GenericTrainer, epoch: int) -> None:
        self._bare = statistics.median(self._block())
        self._steps = []
        self._last = 0.0

    def on_batch_start(self, trainer: GenericTrainer, batch_idx: int) -> None:
        now = time.perf_counter()
        if self._last:
            self._steps.append(now - self._last)
        self._last = now

    def on_epoch_end(self, trainer: GenericTrainer, epoch: int, logs: Mapping[str, Any]) -> None:
        if epoch > 1:  # in the first one all is new
            self.samples.append({"bare": self._bare, "added": statistics.median(self._steps) - self._bare})

    def _block(self) -> list[float]:
        """The steps as anybody has to make them: forward, backward, clipping, optimizer, schedule, in as few words.

        Not what the trainer is for: hooks, the mean loss of an epoch, the log, notices, and where it all stands. The
        modes of torch that the trainer sets for the process (deterministic) hold here too.
        """
        model, optimizer = self.alone.model, self.alone.optimizer
        taken, last = list[float](), time.perf_counter()
        for tokens in self.batches:
            _loss(model, tokens).backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            now = time.perf_counter()
            taken.append(now - last)
            last = now
        return taken[1:]


def _schedule(training: Training) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(training.optimizer, 0.9999)


def measure(turn: Turn) -> list[Sample]:
    """One process's turn."""
    return [
        {**sample, "saves": number}
        for number, save in enumerate(SAVES.values())
        for sample in _fitted(turn, turn.folder / f"run-{number}", save)
    ]


def _fitted(turn: Turn, root: Path, save: SavePolicy) -> list[Sample]:
    blocks, steps = (QUICK_BLOCKS, QUICK_STEPS) if turn.quick else (BLOCKS, STEPS)
    training = Training(SMALL)
    batches = [torch.randint(0, SMALL.vocabulary, (1, SMALL.tokens + 1)) for _ in range(steps)]
    config = GenericTrainerConfig(
        epochs=blocks + 1,
        checkpoint_dir=root,
        max_grad_norm=1.0,
        scheduler_interval="step",
        save=save,
        preemption=Preemption(),
        patience=blocks + 1,
        seed=0,
    )
    trainer, timed = _Trainer(config), _Blocks(batches)
    trainer.add_callback(timed)
    trainer.fit(training.model, training.optimizer, batches, batches[:2], _schedule(training))
    return timed.samples
