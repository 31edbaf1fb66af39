"""E1: what a framework launches can be a trainer, which takes the configuration of its experiment as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import asyncckpt
from asyncckpt.launch import ExecutionMode, ModelTrainingFramework, ParameterGrid

SCRIPT = """
import sys
from pathlib import Path
import torch
from asyncckpt.launch import ConfigurationManager
from asyncckpt.trainer import GenericTrainer

class Loss(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).square().mean()

path = Path(sys.argv[1])
config = ConfigurationManager(path.parent).load_experiment(path)
config.checkpoint.checkpoint_dir = str(path.parent / "checkpoints")
model = Loss(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=config.training.learning_rate)
GenericTrainer(config).fit(model, optimizer, [torch.ones(2, 3)] * 4, [torch.ones(2, 3)])
"""

BASE = {
    "experiment_name": "tiny",
    "model": {"name": "linear"},
    "training": {"epochs": 2, "batch_size": 2, "learning_rate": 0.1},
    "data": {"dataset_name": "ones"},
    "optimizer": {"name": "sgd"},
    "seed": 4,
}


def test_e1_a_grid_of_trainers(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    grid = ParameterGrid("accumulation")
    grid.add_parameter("training.gradient_accumulation_steps", [1, 2])
    result = ModelTrainingFramework(tmp_path).run_grid_search(
        [grid], BASE, execution_mode=ExecutionMode.LOCAL, command=[sys.executable, "train.py", "{config}"]
    )
    assert result.failed == {}
    found = [asyncckpt.load(path).info for path in (tmp_path / "experiments").glob("*/checkpoints")]
    assert sorted((info.step, info.epoch) for info in found) == [(4, 2), (8, 2)]
    assert all("val_loss" in info.metrics for info in found)
