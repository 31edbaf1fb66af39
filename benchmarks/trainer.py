"""Trainer: how much longer a step takes with the trainer around it, beside the same step in a bare loop.

All that it can do is on: hooks, validation, clipping, a schedule by steps, preemption, the log and the metrics of its
run, saves. The two take turns step by step, so that both meet the same machine in the same moment: before each step of
the trainer, a bare loop makes one of an equal model on the same batch. Each sample is of as many steps as lie between
two rows of the metrics, or between two saves: all that is not done at each step is in it as often as it is done.

A save goes on beside the steps that follow it. No bare step is made meanwhile, which would take half of that upon
itself: what the trainer's take longer then is all counted, and is the checkpointer's. The same is measured with nothing
saved: then what is added is the trainer's own, and what the checkpointer does at each step.

The trainer's own part depends on what runs in between. With next to no computation it took 50 us a step; where each
forward pass and each optimizer step went through 50 MB, 244 us (least of n=450, one thread, beside other work on the
machine; medians 85 to 111 and 321 to 387). To offer the runtime to save took 28 us right after such a step and 4 us
once more after that (medians, n=1,200). That looks like cold caches: no counters of the processor were to be had.
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
from asyncckpt.events import Durable, Event, Failed, Requested, Skipped, Superseded
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainingCallback
from benchmarks.bars import Bar
from benchmarks.loop import SMALL, Training
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

BARS = (Bar("added", 1.0), Bar("added to a step", None))

EPOCHS = 3
"""Of which the first is not counted: all is new in it."""

SAMPLES, QUICK_SAMPLES = 10, 2
"""In each of the others, where steps are saved."""

EVERY, QUICK_EVERY = 50, 4
"""Steps from one save to the next."""

LOGGED, QUICK_LOGGED = 10, 2
"""Steps from one row of metrics to the next."""

CASES = f", a save every {EVERY}", ", nothing saved"


def run(options: Options) -> Report:
    """One process after the other."""
    turns = take("trainer", [OWN], options.turns(3), options)
    rows = list[Row]()
    for number, name in enumerate(CASES):
        found = [sample for sample in turns.of(OWN) if sample["case"] == number]
        case = f"a step of {statistics.median(s['bare'] for s in found) * 1e3:.0f} ms{name}"
        rows += [
            row("trainer", case, OWN, "added", "%", [s["added"] / s["bare"] * 100 for s in found]),
            row("trainer", case, OWN, "added to a step", "ms", [s["added"] * 1e3 for s in found]),
            row("trainer", case, OWN, "a step alone", "ms", [s["bare"] * 1e3 for s in found]),
        ]
    return Report(rows, turns.notes, turns.disturbed)


def _loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def _schedule(training: Training) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(training.optimizer, 0.9999)


class _Saving:
    """A listener: how many saves are under way."""

    def __init__(self) -> None:
        self.count = 0

    def on_event(self, event: Event) -> None:
        if isinstance(event, Requested) and event.error is None:
            self.count += 1
        elif isinstance(event, Durable | Failed | Skipped | Superseded):
            self.count -= 1


class _Trainer(GenericTrainer):
    def __init__(self, config: GenericTrainerConfig, saving: _Saving) -> None:
        super().__init__(config)
        self._saving = saving

    def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        return {"loss": _loss(self.model, batch)}

    def checkpointer(self, run: Run, objects: Mapping[str, Any]) -> AsyncCheckpointer:
        config = self.config
        return AsyncCheckpointer(
            run,
            **objects,
            save=config.save,
            monitor=config.monitor,
            preemption=config.preemption,
            budget=Budget(slowdown=None),
            listeners=[self._saving],
        )


class _InTurns(TrainingCallback):
    """Makes the bare steps, and times those of the trainer, in samples of so many `steps`."""

    def __init__(self, batches: list[Tensor], saving: _Saving, steps: int) -> None:
        self._batches = batches
        self._saving = saving
        self._steps = steps
        self._alone = Training(SMALL)
        self._parameters = list(self._alone.model.parameters())
        self._schedule = _schedule(self._alone)
        self._began = 0.0
        self._bare, self._own = list[float](), list[float]()
        self.samples: list[Sample] = []

    def on_epoch_start(self, trainer: GenericTrainer, epoch: int) -> None:
        trainer.ckpt.wait()  # for what the one before has begun
        self._began, self._bare, self._own = 0.0, [], []

    def on_batch_start(self, trainer: GenericTrainer, batch_idx: int) -> None:
        if self._began:
            self._note(time.perf_counter() - self._began, trainer)
        if not (self._saving.count and self._bare):  # of every sample there is one
            self._bare.append(self._step(self._batches[batch_idx]))
        self._began = time.perf_counter()

    def _note(self, seconds: float, trainer: GenericTrainer) -> None:
        self._own.append(seconds)
        if len(self._own) == self._steps:
            if trainer.epoch:  # in the first one all is new
                bare = statistics.fmean(self._bare)
                self.samples.append({"bare": bare, "added": statistics.fmean(self._own) - bare})
            self._bare, self._own = [], []

    def _step(self, tokens: Tensor) -> float:
        """The step as anybody has to make it: forward, backward, clipping, optimizer, schedule, in as few words.

        Not what the trainer is for: hooks, the mean loss of an epoch, the log, notices, and where it all stands. The
        modes of torch that the trainer sets for the process (deterministic) hold here too.
        """
        model, optimizer, began = self._alone.model, self._alone.optimizer, time.perf_counter()
        _loss(model, tokens).backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        return time.perf_counter() - began


def measure(turn: Turn) -> list[Sample]:
    """One process's turn."""
    every, logged = (QUICK_EVERY, QUICK_LOGGED) if turn.quick else (EVERY, LOGGED)
    steps = every * (QUICK_SAMPLES if turn.quick else SAMPLES)
    # Whether a save is due is looked at after each step in both.
    seldom = SavePolicy(every_steps=1_000_000, every_seconds=86_400)
    saved = _fitted(turn.folder / "saved", SavePolicy(every_steps=every), logged, every, steps)
    nothing = _fitted(turn.folder / "nothing", seldom, logged, logged, steps)
    return [{**sample, "case": case} for case, samples in enumerate([saved, nothing]) for sample in samples]


def _fitted(root: Path, save: SavePolicy, logged: int, each: int, steps: int) -> list[Sample]:
    """Samples of `each` so many steps, of epochs of `steps`."""
    training, saving = Training(SMALL), _Saving()
    # One more than is timed: a step lasts until the next batch is there.
    batches = [torch.randint(0, SMALL.vocabulary, (1, SMALL.tokens + 1)) for _ in range(steps + 1)]
    config = GenericTrainerConfig(
        epochs=EPOCHS,
        checkpoint_dir=root,
        max_grad_norm=1.0,
        scheduler_interval="step",
        save=save,
        preemption=Preemption(),
        patience=EPOCHS,
        log_every_n_steps=logged,
        seed=0,
    )
    trainer, timed = _Trainer(config, saving), _InTurns(batches, saving, each)
    trainer.add_callback(timed)
    trainer.fit(training.model, training.optimizer, batches, batches[:2], _schedule(training))
    return timed.samples
