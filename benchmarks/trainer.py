"""Trainer: how much longer a step takes with the trainer around it, beside the same step in a bare loop.

All that it can do is on: hooks, validation, clipping, a schedule by steps, preemption, the log and the metrics of its
run, saves. The two take turns step by step, so that both meet the same machine in the same moment: before each step of
the trainer, a bare loop makes one of an equal model on the same batch, and does what nobody leaves out (`_Bare`). Each
sample is of as many steps as lie between two rows of the metrics, or between two saves: all that is not done at each
step is in it as often as it is done.

On a CPU the trainer clips and clears gradients all at once, where torch's own calls go through them one by one. Nobody
who writes a loop does that, so it is the trainer's to have; but it hides what else the trainer adds. So with nothing
saved there is a bare loop besides that does it too, and what is added to that has no bar.

A save every 500 steps is one in five seconds, which nobody needs more often; one in half a second shows what a save
costs. It is paced by nothing here, and takes 9.5 ms of processor time in the threads beside the training, which has
both cores.

What the trainer has begun goes on beside the steps that follow. No bare step is made meanwhile, which would take half
of that upon itself: none while a save is under way, and none right after a row was given to the thread that writes it.
What the trainer's take longer then is all counted. The same is measured with nothing saved: then what is added is the
trainer's own, and what the checkpointer does at each step.

The step is made to last about 10 ms on two cores of a server of today; how long it was is in the rows.

What is left is spread over the step: outside of torch's own calls, beside a loop that clears gradients at once too
(lower quarter of n=400 steps, by the clock), 2 us were added before the forward pass, 13 between that and the backward
pass, 29 between that and clipping, 3 before the optimizer and 20 at the end, about 70 us in sum; a row of the metrics
takes 100 us more than the bare loop's line. Whole steps vary so much that the medians here are known to 30 us at best:
two equal loops in turn differ by as much, and each step takes 100 to 400 page faults, 10 to 20 apart.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import optimizer as optimizers

from asyncckpt import AsyncCheckpointer, Budget, Preemption, Run, SavePolicy
from asyncckpt.events import Durable, Event, Failed, Requested, Skipped, Superseded
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainingCallback
from benchmarks.bars import Bar
from benchmarks.loop import SMALL, Training
from benchmarks.options import Options
from benchmarks.results import Report, Row, row
from benchmarks.systems import OWN
from benchmarks.turns import Sample, Turn, take

SHAPE = replace(SMALL, tokens=128)
"""Of which a step takes about 10 ms."""


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    samples: int
    """In each turn."""
    each: int
    """Steps of a sample."""
    every: int | None = None
    """Steps from one save to the next."""
    at_once: bool = False
    """Whether the bare loop clips and clears gradients as the trainer does."""
    metric: str = "added"

    def quick(self) -> _Case:
        """In a moment: to see that it works."""
        return replace(self, samples=2, each=4 if self.every else QUICK_LOGGED, every=self.every and 4)


LOGGED, QUICK_LOGGED = 10, 2
"""Steps from one row of metrics to the next."""

WARM, QUICK_WARM = 400, 4
"""Steps in which all is new, and which are not counted."""

CASES = (
    _Case(", a save every 500 steps", 6, 500, every=500),
    _Case(", a save every 50 steps", 20, 50, every=50),
    _Case(", nothing saved", 200, LOGGED),
    _Case(", nothing saved, beside a loop that clips at once", 100, LOGGED, at_once=True, metric="added to that"),
)

BARS = (
    Bar("added", 1.0, case="every 500 steps"),
    Bar("added", None, case="every 50 steps"),
    Bar("added", 1.0, case="nothing saved"),
    Bar("added to a step", None),
    Bar("added to that", None),
)


def run(options: Options) -> Report:
    """One process after the other."""
    turns = take("trainer", [OWN], options.turns(3), options)
    rows = list[Row]()
    for number, each in enumerate(CASES):
        found = [sample for sample in turns.of(OWN) if sample["case"] == number]
        case = f"a step of {statistics.median(s['bare'] for s in found) * 1e3:.0f} ms{each.name}"
        rows += [
            row("trainer", case, OWN, each.metric, "%", [s["added"] / s["bare"] * 100 for s in found]),
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


class _Bare:
    """The loop as anybody has to write it who wants the same numbers, in as few words.

    Forward, backward, clipping, optimizer, schedule; the sum that the mean loss of an epoch is made of; after so many
    steps a row of the metrics, in the file `log`. Not what the trainer is for: hooks, notices, and where it all
    stands. The modes of torch that the trainer sets for the process (deterministic) hold here too.
    """

    def __init__(self, log: TextIO, logged: int, *, at_once: bool) -> None:
        self._training = Training(SHAPE)
        self._at_once = at_once
        self._parameters = list(self._training.model.parameters())
        self._schedule = _schedule(self._training)
        self._log = log
        self._logged = logged
        self._sum, self._samples = 0.0, 0

    def step(self, tokens: Tensor, batch_idx: int) -> float:
        """One step; the seconds that it took."""
        with _unhooked():
            began = time.perf_counter()
            self._make(tokens, batch_idx)
            return time.perf_counter() - began

    def _make(self, tokens: Tensor, batch_idx: int) -> None:
        model, optimizer = self._training.model, self._training.optimizer
        loss = _loss(model, tokens)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, 1.0, foreach=self._at_once or None)
        optimizer.step()
        if self._at_once:
            for parameter in self._parameters:
                parameter.grad = None
        else:
            optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        value = loss.item()
        self._sum += value * len(tokens)
        self._samples += len(tokens)
        if (batch_idx + 1) % self._logged == 0:
            row = {"step": batch_idx + 1, "loss": value, "grad_norm": norm.item(), "lr": self._schedule.get_last_lr()}
            print(json.dumps(row), file=self._log, flush=True)


@contextmanager
def _unhooked() -> Iterator[None]:
    """Torch has its hooks before optimizer steps for the whole process: the checkpointer's is not the bare loop's."""
    hooks = optimizers._global_optimizer_pre_hooks
    kept = dict(hooks)
    hooks.clear()
    yield
    hooks.update(kept)


class _InTurns(TrainingCallback):
    """Makes `bare` steps, and times the trainer's, in samples of so many `steps`, after some that are not counted."""

    def __init__(
        self, batches: list[Tensor], saving: _Saving, bare: _Bare, logged: int, steps: int, uncounted: int
    ) -> None:
        self._batches = batches
        self._saving = saving
        self._alone = bare
        self._logged = logged
        self._steps = steps
        self._uncounted = uncounted
        self._began = 0.0
        self._bare, self._own = list[float](), list[float]()
        self.samples: list[Sample] = []

    def on_batch_start(self, trainer: GenericTrainer, batch_idx: int) -> None:
        if batch_idx > self._uncounted:
            self._note(time.perf_counter() - self._began)
        is_written = batch_idx % self._logged == 0
        if not is_written and not (self._saving.count and self._bare):  # of every sample there is one
            self._bare.append(self._alone.step(self._batches[batch_idx], batch_idx))
        if batch_idx < self._uncounted:
            self._bare = []
        self._began = time.perf_counter()

    def _note(self, seconds: float) -> None:
        self._own.append(seconds)
        if len(self._own) == self._steps:
            bare = statistics.fmean(self._bare)
            self.samples.append({"bare": bare, "added": statistics.fmean(self._own) - bare})
            self._bare, self._own = [], []


def measure(turn: Turn) -> list[Sample]:
    """One process's turn."""
    return [
        {**sample, "case": number}
        for number, case in enumerate(CASES)
        for sample in _fitted(turn.folder / str(number), case, turn)
    ]


def _fitted(root: Path, case: _Case, turn: Turn) -> list[Sample]:
    if turn.quick:
        case = case.quick()
    logged = QUICK_LOGGED if turn.quick else LOGGED
    # What is done now and then is done amidst a sample, and what it has begun is over at its end.
    uncounted = (QUICK_WARM if turn.quick else WARM) // case.each * case.each + case.each // 2
    training, saving = Training(SHAPE), _Saving()
    # One more than is timed: a step lasts until the next batch is there.
    count = uncounted + case.samples * case.each + 1
    batches = [torch.randint(0, SHAPE.vocabulary, (1, SHAPE.tokens + 1)) for _ in range(count)]
    config = GenericTrainerConfig(
        epochs=1,
        checkpoint_dir=root,
        max_grad_norm=1.0,
        scheduler_interval="step",
        # Whether a save is due is looked at after each step also where none ever is.
        save=SavePolicy(every_steps=case.every) if case.every else SavePolicy(every_steps=10**6, every_seconds=86_400),
        preemption=Preemption(),
        patience=1,
        log_every_n_steps=logged,
        seed=0,
    )
    trainer = _Trainer(config, saving)
    with root.with_suffix(".jsonl").open("w") as log:
        timed = _InTurns(batches, saving, _Bare(log, logged, at_once=case.at_once), logged, case.each, uncounted)
        trainer.add_callback(timed)
        trainer.fit(training.model, training.optimizer, batches, batches[:2], _schedule(training))
    return timed.samples
