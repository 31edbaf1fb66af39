"""A grid search on this machine: four learning rates and widths, two trainings at once, the best at the end.

    python examples/grid_search.py OUTPUT

Each training is this program again, with the configuration of its experiment; started once more, it goes on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

BASE = {
    "experiment_name": "sines",
    "model": {"name": "mlp", "hidden_size": 16},
    "training": {"epochs": 3, "batch_size": 32, "learning_rate": 0.01},
    "data": {"dataset_name": "sines"},
    "optimizer": {"name": "adamw"},
    "checkpoint": {"save_top_k": 1, "monitor": "val_loss", "checkpoint_dir": "checkpoints"},
    "seed": 1,
}


def train(path: Path) -> None:
    """Train the experiment whose configuration is at `path`."""
    import torch

    from asyncckpt import AsyncCheckpointer
    from asyncckpt.launch import ConfigurationManager

    config = ConfigurationManager(path.parent).load_experiment(path)
    torch.manual_seed(config.seed or 0)
    width = config.model.hidden_size or 16
    model = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.training.learning_rate)
    with AsyncCheckpointer(
        path.parent / config.checkpoint.checkpoint_dir,
        model=model, optimizer=optimizer,
        save=config.checkpoint.save_policy(), keep=config.checkpoint.retention(),
        monitor=config.checkpoint.monitored(), preemption=config.preemption.settings(),
    ) as ckpt:  # fmt: skip
        state = ckpt.resume()
        for epoch in range((state.epoch or 0) + 1 if state else 1, config.training.epochs + 1):
            for step in range((epoch - 1) * 20 + 1, epoch * 20 + 1):
                x = torch.rand(config.training.batch_size, 1) * 6
                loss = (model(x) - x.sin()).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                ckpt.step(step)
            ckpt.epoch_end(epoch, metrics={"val_loss": loss})
        ckpt.wait()
        best = ckpt.best()
    (path.parent / "best.json").write_text(json.dumps(dict(best.metrics) if best else {}))


def search(output: Path) -> None:
    """Run every combination, and say which was best."""
    from asyncckpt.launch import ExecutionMode, ModelTrainingFramework, NamingStrategy, ParameterGrid

    grid = ParameterGrid("sizes")
    grid.add_parameter("training.learning_rate", [0.001, 0.03])
    grid.add_parameter("model.hidden_size", [8, 32])
    result = ModelTrainingFramework(".").run_grid_search(
        [grid], BASE, execution_mode=ExecutionMode.LOCAL, output_dir=output.resolve(), max_concurrent_jobs=2,
        command=[sys.executable, str(Path(__file__).resolve()), "--train", "{config}"],
        naming=NamingStrategy.DESCRIPTIVE,
    )  # fmt: skip
    for name, reason in result.failed.items():
        print(f"{name} failed: {reason}")
    losses = {path.parent.name: json.loads(path.read_text())["val_loss"] for path in output.glob("*/best.json")}
    best = min(losses, key=lambda name: losses[name])
    print(f"{result.submitted} of {result.total} trained; the best is {best}: {losses[best]:.4f}")


if __name__ == "__main__":
    train(Path(sys.argv[2])) if sys.argv[1] == "--train" else search(Path(sys.argv[1]))
