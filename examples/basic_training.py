"""A training with a scheduler, validation, and checkpoints. Run: python examples/basic_training.py ROOT

Killed at any moment and started again, it goes on where it was, in the middle of an epoch too.
"""

import logging
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from asyncckpt import RetentionPolicy, SavePolicy
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig


class Regression(nn.Module):
    """Gives the loss itself: then a trainer needs nothing else to be said."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 1))

    def forward(self, x, y):
        return (self.layers(x) - y).square().mean()


def sines(count, seed):
    x = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) * 6
    return TensorDataset(x, x.sin())


def main(root):
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.manual_seed(0)
    model = Regression()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    config = GenericTrainerConfig(
        epochs=5, checkpoint_dir=root, seed=0, max_grad_norm=1.0, gradient_accumulation_steps=2,
        save=SavePolicy(every_epochs=1), keep=RetentionPolicy(last=2, best=1), monitor=("val_loss", "min"),
    )  # fmt: skip
    trainer = GenericTrainer(config)
    trainer.fit(
        model,
        optimizer,
        DataLoader(sines(512, 1), batch_size=32, shuffle=True),
        DataLoader(sines(128, 2), batch_size=64),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
    )
    print(f"{trainer.epoch} epochs, {trainer.global_step} steps: val_loss {trainer.logs['val_loss']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
