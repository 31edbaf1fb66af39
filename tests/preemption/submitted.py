"""A training that submitit runs, as its own documentation has them: a callable that says how it is called again."""

from __future__ import annotations

import os
import signal

import torch
from submitit.core.utils import DelayedSubmission

from asyncckpt import AsyncCheckpointer, Preemption, load

STEPS = 8


class Training:
    """Trains up to `STEPS`; in its first attempt it is told after `told` steps, if at all, that it has to leave."""

    def __call__(self, root: str, told: int | None, requeue: str) -> tuple[int, list[float]]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        optimizer = torch.optim.Adam(model.parameters())
        preemption = Preemption(requeue=requeue)
        with AsyncCheckpointer(
            root, model=model, optimizer=optimizer, preemption=preemption, executor="thread"
        ) as ckpt:
            state = ckpt.resume()
            first = state.step + 1 if state else 1
            for step in range(first, STEPS + 1):
                model(torch.randn(2, 4)).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                if step == told and state is None:
                    os.kill(os.getpid(), signal.SIGUSR2)  # as submitit's controller does, and Slurm
                ckpt.step(step)
            ckpt.save(STEPS).wait()
        return first, model.weight.flatten().tolist()

    def checkpoint(self, root: str, told: int | None, requeue: str) -> DelayedSubmission:
        """What submitit calls before it puts the job back: by then the save has to be durable."""
        print(f"put back with step {load(root).info.step} saved", flush=True)
        return DelayedSubmission(self, root, told, requeue)
