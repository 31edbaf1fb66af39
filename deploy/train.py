"""A training to try a deployment with: ``train.py ROOT [STEPS]``. Put your own in its place.

It is told by the environment what a deployment knows: GRACE_SECONDS from the notice to the kill, NOTICE_FILE that
somebody touches, WATCH (aws, gcp, azure, slurm; several with commas), SAVE_EVERY and PACE in seconds.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import time
from pathlib import Path

import torch

from asyncckpt import AsyncCheckpointer, Preemption, RetentionPolicy, SavePolicy


def main(root: str, steps: int | None = None) -> None:
    """Train, or go on."""
    said = os.environ
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    watch: list[str | Path] = [word for word in said.get("WATCH", "").split(",") if word]
    if "NOTICE_FILE" in said:
        watch.append(Path(said["NOTICE_FILE"]))
    with AsyncCheckpointer(
        root,
        model=model,
        optimizer=optimizer,
        save=SavePolicy(every_seconds=float(said.get("SAVE_EVERY", "30"))),
        keep=RetentionPolicy(last=3, hourly=6),
        preemption=Preemption(
            deadline=float(said.get("GRACE_SECONDS", "30")),
            watch=watch,
            requeue="scontrol" if "SLURM_JOB_ID" in said else "none",
        ),
    ) as ckpt:
        state = ckpt.resume()
        for step in itertools.count(state.step + 1 if state else 1):
            if steps is not None and step > steps:
                break
            model(torch.randn(32, 256)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            ckpt.step(step)
            time.sleep(float(said.get("PACE", "0.1")))  # as long as a step of something bigger
        if steps is not None:
            ckpt.save(steps)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(sys.argv[1], *map(int, sys.argv[2:]))
