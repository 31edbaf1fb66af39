"""A training that writes down all that happens in it, and is told to leave when it comes to a phase; run in a process.

What two such trainings write is the same exactly if they load the same batches, draw the same numbers, come to the same
losses and weights, and call the same hooks, each once and in the same order.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, get_worker_info

from asyncckpt import AsyncCheckpointer, Preemption, Run, SavePolicy
from asyncckpt.testing.ranks import PRELOADED, process_class
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainerPhase, TrainingCallback

PRELOADED.append(__name__)
WIDTH = 6


@dataclass(frozen=True)
class Plan:
    """How a training is made: `leave_at` is the phase before which it is told to, the time `after` it comes to it.

    One that is not told itself (`is_told`) waits there until it has heard that another rank was.
    """

    seed: int = 0
    loader: str = "shuffled"
    leave_at: str | None = None
    after: int = 1
    is_told: bool = True
    exit: str = "raise"
    amp: str | None = None
    executor: str = "thread"
    epochs: int = 2
    save: SavePolicy | None = None
    interval: str = "step"
    more: Mapping[str, Any] = field(default_factory=dict)


class Rows(Dataset[Any]):
    """Rows that are changed at random when they are read, by each kind of random number there is."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = np.random.normal() + random.random() + torch.rand(()).item()
        return torch.linspace(0, 1, WIDTH) * index + 0.1 * noise, torch.tensor(float(index))


class Plain(Rows):
    """Rows as they are: nothing is drawn in a worker."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.linspace(0, 1, WIDTH) * index, torch.tensor(float(index))


class Stream(IterableDataset[Any]):
    """Rows without a length, which knows where it is: each worker has a part of them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.at = 0
        self.resumed = False

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        if not self.resumed:
            self.at = first
        self.resumed = False
        while self.at < self.count:
            index, self.at = self.at, self.at + every
            yield torch.linspace(0, 1, WIDTH) * index, torch.tensor(float(index))

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at, self.resumed = state["at"], True


def loaders(kind: str, seed: int) -> tuple[Any, Any]:
    """For training and for validation."""
    if kind == "shuffled":
        return DataLoader(Rows(20), batch_size=3, shuffle=True), DataLoader(Rows(8), batch_size=3)
    if kind == "generator":
        own = torch.Generator().manual_seed(seed)
        return DataLoader(Rows(20), batch_size=3, shuffle=True, generator=own), DataLoader(Rows(8), batch_size=3)
    if kind in ("workers", "persistent"):
        several = {"num_workers": 2, "persistent_workers": kind == "persistent"}
        rows = Rows if kind == "workers" else Plain
        return DataLoader(rows(20), batch_size=3, shuffle=True, **several), DataLoader(Rows(8), batch_size=3)
    if kind == "distributed":
        parts = DistributedSampler(Rows(22), seed=seed), DistributedSampler(Rows(8), shuffle=False)
        return tuple(DataLoader(part.dataset, batch_size=3, sampler=part) for part in parts)
    if kind == "list":
        return [(torch.full((2, WIDTH), float(n)), torch.zeros(2)) for n in range(7)], [
            {"x": torch.ones(4, WIDTH), "y": torch.zeros(4)}
        ]
    from torchdata.stateful_dataloader import StatefulDataLoader

    workers = 2 if kind.endswith("workers") else 0
    if kind.startswith("stream"):
        return StatefulDataLoader(Stream(18), batch_size=3, num_workers=workers), DataLoader(Rows(8), batch_size=3)
    rows = Plain if workers else Rows
    loader = StatefulDataLoader(rows(20), batch_size=3, shuffle=True, num_workers=workers)
    return loader, StatefulDataLoader(rows(8), batch_size=3, num_workers=workers)


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.detach().double().numpy().tobytes() for t in tensors)).hexdigest()[:12]


class Told(TrainingCallback):
    """Writes each call to the trace, and is saved itself."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.count = 0

    def on_training_start(self, trainer: GenericTrainer) -> None:
        if trainer.phase is TrainerPhase.INIT:  # which it comes to before there is anybody to tell
            trainer.phase = TrainerPhase.INIT

    def on_epoch_start(self, trainer: GenericTrainer, epoch: int) -> None:
        self.count += 1
        self.trace.write("epoch_start", epoch, self.count)

    def on_epoch_end(self, trainer: GenericTrainer, epoch: int, logs: Mapping[str, Any]) -> None:
        self.trace.write("epoch_end", epoch, {name: value.hex() for name, value in logs.items()})

    def on_batch_start(self, trainer: GenericTrainer, batch_idx: int) -> None:
        self.trace.write("batch_start", batch_idx)

    def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
        self.trace.write("batch_end", batch_idx, float(logs["loss"]).hex(), trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


class Trace:
    """Lines of JSON in a file, one process's after the other's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *values: Any) -> None:
        with self.path.open("a") as file:
            print(json.dumps(values), file=file)


class Trained(GenericTrainer):
    """Leaves where the plan says."""

    def __init__(self, config: GenericTrainerConfig, plan: Plan, trace: Trace) -> None:
        self.left = plan.after if plan.leave_at else 0
        self.plan, self.trace = plan, trace
        super().__init__(config)

    @property
    def phase(self) -> TrainerPhase:
        return self._phase

    @phase.setter
    def phase(self, phase: TrainerPhase) -> None:
        self._phase = phase
        if phase.value == self.plan.leave_at and self._ckpt is not None and not self.is_placing:
            self.left -= 1
            if self.left == 0 and self.plan.is_told:
                os.kill(os.getpid(), signal.SIGTERM)
            while self.left == 0 and self.ckpt._stopping._notices.first is None:
                time.sleep(0.01)

    is_placing = True

    def _train_and_tell(self) -> None:
        self.is_placing = False
        super()._train_and_tell()

    def checkpointer(self, run: Run, objects: Mapping[str, Any]) -> AsyncCheckpointer:
        config = self.config
        return AsyncCheckpointer(
            run, **objects, save=config.save, keep=config.keep, monitor=config.monitor, preemption=config.preemption,
            executor=self.plan.executor,
        )  # fmt: skip

    def _out(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch.values() if isinstance(batch, dict) else batch
        return x, (self.model(x.float()).float().squeeze(-1) - y.float() / 10).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        x, loss = self._out(batch)
        self.trace.write("train", batch_idx, digest(x), loss.item().hex(), random.random(), np.random.rand())
        return {"loss": loss, "seen": len(x), "name": "a batch"}

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        x, loss = self._out(batch)
        self.trace.write("validate", batch_idx, digest(x), loss.item().hex(), torch.rand(()).item())
        return {"loss": loss, "val_above": (loss > 1).float()}


def model_of() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.25), nn.Linear(8, 1))


def train(
    folder: Path,
    plan: Plan,
    seed_of_process: int = 0,
    *,
    trace: str = "trace.jsonl",
    wrapped: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> GenericTrainer:
    """Begin, or go on."""
    torch.set_num_threads(1)
    # What a process has drawn before must not matter once it goes on from a checkpoint.
    torch.manual_seed(seed_of_process), np.random.seed(seed_of_process), random.seed(seed_of_process)
    if not (folder / "run").exists():
        torch.manual_seed(plan.seed)
    model = model_of()
    optimizers = [
        torch.optim.SGD(model[0].parameters(), lr=0.01, momentum=0.9),
        torch.optim.AdamW([*model[1].parameters(), *model[3].parameters()], lr=0.01),
    ]
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9) for optimizer in optimizers]
    config = GenericTrainerConfig(
        epochs=plan.epochs, checkpoint_dir=folder / "run", gradient_accumulation_steps=3, max_grad_norm=1.0,
        amp=plan.amp, scheduler_interval=plan.interval, seed=plan.seed, log_every_n_steps=1, save=plan.save,
        preemption=Preemption(exit=plan.exit, deadline=60), patience=5, **plan.more,
    )  # fmt: skip
    told = Trace(folder / trace)
    trainer = Trained(config, plan, told)
    trainer.add_callback(Told(told))
    trainer.fit(wrapped(model), optimizers, *loaders(plan.loader, plan.seed), schedulers)
    if trainer.phase is TrainerPhase.TRAINING_COMPLETE:
        moments = [t for o in optimizers for s in o.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
        told.write("end", digest(*model.state_dict().values(), *moments), [o.param_groups[0]["lr"] for o in optimizers])
    return trainer


def _child(folder: Path, plan: Plan, seed_of_process: int) -> None:
    train(folder, plan, seed_of_process)


def run(folder: Path, plan: Plan, seed_of_process: int = 0) -> int:
    """`train` in a process of its own; its exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    process = process_class()(target=_child, args=(folder, plan, seed_of_process))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "still training after two minutes"
    return process.exitcode


def traced(folder: Path, trace: str = "trace.jsonl") -> list[Any]:
    return [json.loads(line) for line in (folder / trace).read_text().splitlines()]
