"""A training that a cluster runs: ``training.py CONFIG EPOCHS PACED``; its folder gets what it came to.

The trainer makes `EPOCHS` epochs. Until it was put back `PACED` times a batch takes a while: there is something to
preempt.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from asyncckpt import SavePolicy
from asyncckpt.launch.config import ConfigurationManager
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainingCallback


class Trainer(GenericTrainer):
    """Its batches are rows alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        """The mean square of what the model makes of them."""
        return {"loss": self.model(batch).square().mean()}


class Told(TrainingCallback):
    """Says where each start began, and that a batch was made; the first `paced` starts are slow."""

    def __init__(self, folder: Path, paced: int) -> None:
        self._folder = folder
        self._restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        self._is_slow = self._restarts < paced

    def on_training_start(self, trainer: GenericTrainer) -> None:
        """Where that is."""
        with (self._folder / "starts").open("a") as starts:
            print(self._restarts, trainer.global_step, file=starts)

    def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
        """From now on it can be told."""
        (self._folder / f"attempt{self._restarts}").touch()
        if self._is_slow:
            time.sleep(0.05)


def main(path: Path, epochs: int, paced: int) -> None:
    """Train, or go on."""
    config = ConfigurationManager(path.parent).load_experiment(path)
    torch.manual_seed(config.seed or 0)
    rows = torch.randn(50, 16, 8)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.training.learning_rate)
    trainer = Trainer(
        replace(
            GenericTrainerConfig.of(config),
            checkpoint_dir=path.parent / "checkpoints",
            epochs=epochs,
            gradient_accumulation_steps=2,
            save=SavePolicy(every_epochs=10),
        )
    )
    trainer.add_callback(Told(path.parent, paced))
    trainer.fit(model, optimizer, torch.utils.data.DataLoader(rows, batch_size=None, shuffle=True), rows[:4])
    (path.parent / "loss").write_text(trainer.logs["val_loss"].hex())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
