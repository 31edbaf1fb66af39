"""A trainer of one's own: losses, metrics, an average of the model. Run: python examples/custom_trainer.py ROOT

What a step computes is `training_step`; everything that has to come back after a kill is the trainer's to save.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainingCallback


class Distilled(GenericTrainer):
    """Learns from labels, and from an average of itself, which is saved as one more thing."""

    def checkpointer(self, run, objects):
        self.teacher = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        extra = {**objects["extra"], "teacher": self.teacher}
        config = self.config
        return AsyncCheckpointer(
            run, **{**objects, "extra": extra}, save=config.save, keep=config.keep, monitor=config.monitor,
            preemption=config.preemption,
        )  # fmt: skip

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self.model(x)
        with torch.no_grad():
            taught = self.teacher(x).softmax(-1)
        task = nn.functional.cross_entropy(scores, y)
        return {"loss": task + 0.1 * nn.functional.cross_entropy(scores, taught), "task": task}

    def validation_step(self, batch, batch_idx):
        x, y = batch
        scores = self.model(x)
        return {"loss": nn.functional.cross_entropy(scores, y), "accuracy": (scores.argmax(-1) == y).float().mean()}


class Averaging(TrainingCallback):
    """Brings the average along once for each step."""

    def on_batch_end(self, trainer, batch_idx, logs):
        trainer.teacher.update_parameters(trainer.model)


def spirals(count, seed):
    made = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (count,), generator=made)
    angle = torch.rand(count, generator=made) * 5
    x = torch.stack([(angle + 1) * torch.cos(angle + 3.14 * y), (angle + 1) * torch.sin(angle + 3.14 * y)], -1)
    return TensorDataset(x / 6, y)


def main(root):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    config = GenericTrainerConfig(
        epochs=20, checkpoint_dir=root, seed=0, patience=5, monitor=("val_accuracy", "max"),
        keep=RetentionPolicy(last=1, best=1),
    )  # fmt: skip
    trainer = Distilled(config)
    trainer.add_callback(Averaging())
    train, test = DataLoader(spirals(512, 1), batch_size=64, shuffle=True), DataLoader(spirals(256, 2), batch_size=256)
    trainer.fit(model, optimizer, train, test)
    print(f"{trainer.epoch} epochs: accuracy {trainer.logs['val_accuracy']:.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
