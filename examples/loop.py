"""A trainer of one's own around a checkpointer. Run: python examples/loop.py ROOT

`Trainer.step(loss, **metrics)` counts steps and saves by the policy, `Trainer.epoch_end(epoch)` ends an epoch, and
`Trainer.load(best=True)` goes back to the best. Killed at any moment and started again it goes on where it was.
"""

import sys

import torch

from asyncckpt import AsyncCheckpointer, TrainingState
from asyncckpt.training import CheckpointConfig, EarlyStopping

DEFAULT = CheckpointConfig(save_every_n_epochs=1, keep_last_n_checkpoints=5, keep_best_n_checkpoints=3)


class Trainer:
    """Counts steps, and saves, schedules and stops by what it is told."""

    def __init__(self, root, model, optimizer, scheduler=None, config=DEFAULT, patience=3):
        self.scheduler = scheduler
        self.monitor = config.monitor
        self.early = EarlyStopping(config.monitor, patience=patience)
        self.metrics = {}
        about = TrainingState(model_name=type(model).__name__, experiment_name="loop")
        self.ckpt = AsyncCheckpointer(
            root, model=model, optimizer=optimizer, scheduler=scheduler,
            extra={"about": about, "early": self.early}, **config.keywords(root, about.model_name),
            on_busy="wait",  # an epoch takes milliseconds here: none of its checkpoints shall be passed over
        )  # fmt: skip
        state = self.ckpt.resume()
        self.global_step, self.epoch = (state.step, state.epoch or 0) if state else (0, 0)

    def step(self, loss, **metrics):
        """One optimizer step is complete; returns the handle of a save, where one is due."""
        self.global_step += 1
        self.metrics = {"loss": loss, **metrics}
        return self.ckpt.step(self.global_step, metrics=self.metrics)

    def epoch_end(self, epoch):
        """`epoch` epochs are complete. The scheduler goes on once, before the save, so that a resume has it behind."""
        self.epoch = epoch
        if self.scheduler is not None:
            self.scheduler.step()
        self.early.update(self.metrics)
        return self.ckpt.epoch_end(epoch, step=self.global_step, metrics=self.metrics)

    def load(self, best=False):
        """Bring back the best, or the latest."""
        self.ckpt.wait()
        return self.ckpt.restore("best" if best else "latest")


def main(root):
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    trainer = Trainer(root, model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5))
    with trainer.ckpt:
        for epoch in range(trainer.epoch + 1, 11):
            for _ in range(4):
                loss = model(torch.randn(32, 8)).square().mean()
                loss.backward(), optimizer.step(), optimizer.zero_grad()
                trainer.step(loss)
            trainer.epoch_end(epoch)
            if trainer.early.should_stop:
                break
        print(trainer.load(best=True).format_summary())


if __name__ == "__main__":
    main(sys.argv[1])
