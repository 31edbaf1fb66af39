"""A training that a cluster runs: ``training.py CONFIG TOTAL PACED``; its folder gets what it came to.

It makes `TOTAL` steps. Until it was put back `PACED` times a step takes a while: there is something to preempt.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.launch.config import ConfigurationManager


def main(path: Path, total: int, paced: int) -> None:
    """Train, or go on."""
    config = ConfigurationManager(path.parent).load_experiment(path)
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    torch.manual_seed(config.seed or 0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.training.learning_rate)
    loss = torch.zeros(())
    with AsyncCheckpointer(
        path.parent / "checkpoints",
        model=model,
        optimizer=optimizer,
        preemption=config.preemption.settings(),
        executor="thread",
    ) as ckpt:
        state = ckpt.resume()
        start = state.step if state else 0
        with (path.parent / "starts").open("a") as starts:
            print(restarts, start, file=starts)
        for step in range(start + 1, total + 1):
            optimizer.zero_grad()
            loss = model(torch.randn(16, 8)).square().mean()
            loss.backward()
            optimizer.step()
            ckpt.step(step)
            (path.parent / f"attempt{restarts}").touch()
            if restarts < paced:
                time.sleep(0.1)
    (path.parent / "loss").write_text(loss.item().hex())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
