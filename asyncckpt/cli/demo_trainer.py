"""The training script of the demo: ``python -m asyncckpt.cli.demo_trainer --root DIR --steps N``.

`train` is what a user writes; `train_twin` is the same run with no checkpointer in it, against which the resumed
run is compared. What happens is told as JSON lines on stdout, to whoever watches.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel

from asyncckpt import AsyncCheckpointer, Budget, CheckpointInfo, Preemption, RetentionPolicy, Run, SavePolicy, load
from asyncckpt.cli.demo_model import GPT, SIZES, Windows, draws, fingerprint, standard_library
from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.events import Event


def train(training: Training, options: argparse.Namespace) -> list[CheckpointInfo]:
    """Train under a checkpointer that saves every few steps; returns what is listed at the end."""
    said = {"name": "demo", "size": options.size, "training": {"steps": options.steps}, "save_every": options.every}
    with (
        Run.open(options.root, config=said, mode="auto", logs=False) as run,  # stdout is for whoever watches
        AsyncCheckpointer(
            run,
            model=training.model,
            optimizer=training.optimizer,
            scheduler=training.scheduler,
            dataloader=training.windows,
            extra={"ema": training.ema},
            save=SavePolicy(every_steps=options.every),
            keep=RetentionPolicy(last=3),
            budget=Budget(slowdown=None),  # it saves every few steps: paced, most of them would be superseded
            preemption=Preemption(deadline=options.grace) if options.grace else None,
            metrics=options.metrics_port,
            listeners=[Reporter()],
        ) as ckpt,
    ):
        state = ckpt.resume()
        report("resumed", step=state.step if state else 0, run=run.id, mode=run.mode)
        for step in range(state.step + 1 if state else 1, options.steps + 1):
            loss = training.train_step()
            report("step", step=step, loss=loss.hex())
            ckpt.step(step, metrics={"loss": loss})
        ckpt.save(options.steps).wait(timeout=120)
        ckpt.wait(timeout=120)
        return list(ckpt.checkpoints())


def train_twin(training: Training, steps: int) -> None:
    """Train without interruption and without a checkpointer."""
    for step in range(1, steps + 1):
        report("step", step=step, loss=training.train_step().hex())


def main(argv: list[str] | None = None) -> None:
    """Train to the last step, from the newest checkpoint if there is one, and report the state reached."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    training = Training.build(options.size, options.steps)
    if options.root is None:
        train_twin(training, options.steps)
        report("done", digests=training.digests())
    else:
        listed = train(training, options)
        sound = sum(loads(options.root, info.id) for info in listed)
        report("done", digests=training.digests(), listed=len(listed), sound=sound)


@dataclass(frozen=True, slots=True)
class Training:
    """Everything that changes while the model trains."""

    model: GPT
    optimizer: torch.optim.Optimizer
    scheduler: CosineAnnealingLR
    ema: AveragedModel
    windows: Windows

    @classmethod
    def build(cls, size: str, steps: int) -> Training:
        """A fresh one, the same in every process."""
        seed_all(1234)
        model = GPT(SIZES[size])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        return cls(
            model,
            optimizer,
            CosineAnnealingLR(optimizer, T_max=steps, eta_min=1e-4),
            AveragedModel(model, avg_fn=lambda average, weight, _: average.lerp(weight, 0.01)),
            Windows(standard_library(), SIZES[size]),
        )

    def train_step(self) -> float:
        """One optimizer step; returns the loss before it."""
        inputs, targets = next(self.windows)
        loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.ema.update_parameters(self.model)
        return loss.item()

    def digests(self) -> dict[str, Any]:
        """What two equal runs agree on, bit for bit, and the next draws of every random generator."""
        states: dict[str, Any] = {
            "parameters": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.scheduler.state_dict(),
            "averaged model": self.ema.state_dict(),
            "data order": self.windows.state_dict(),
        }
        return {name: fingerprint(state) for name, state in states.items()} | {"random generators": draws()}


def seed_all(seed: int) -> None:
    """Seed python's, torch's and (where installed) numpy's global generators."""
    random.seed(seed)
    torch.manual_seed(seed)
    if find_spec("numpy") is not None:
        from numpy import random as numpy_random

        numpy_random.seed(seed)


def loads(root: str, checkpoint: str) -> bool:
    """Whether every byte of a checkpoint is what its digests say."""
    try:
        load(root, checkpoint)
    except CheckpointCorruptError:
        return False
    return True


class Reporter:
    """A listener that reports every event of the checkpointer under its name."""

    def on_event(self, event: Event) -> None:
        values = {field.name: getattr(event, field.name) for field in fields(event)}
        report(type(event).__name__.lower(), **values)


def report(event: str, **values: Any) -> None:
    """Print one JSON line."""
    # One write per line: events come from background threads too, and lines must not run into each other.
    sys.stdout.write(json.dumps({"event": event, **values}, default=str) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m asyncckpt.cli.demo_trainer", description=__doc__)
    parser.add_argument("--root", help="where to save and resume; without it, the uninterrupted twin runs")
    parser.add_argument("--steps", type=int, required=True, help="steps of the whole run")
    parser.add_argument("--every", type=int, default=4, help="steps from one save to the next")
    parser.add_argument("--grace", type=float, help="seconds from SIGTERM to the kill")
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--metrics-port", type=int, default=0, help="0 takes a free port")
    return parser


if __name__ == "__main__":
    main()
