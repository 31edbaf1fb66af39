"""Tell W&B of every checkpoint, and a chat of the good ones. Run: python examples/notify.py ROOT WEBHOOK_URL

A callback is called once its checkpoint is durable, on a background thread: a slow service holds up no step, and one
that fails is a line in the log. For all that a tracker does by itself, see `asyncckpt.trackers.WandbTracker`.
"""

import json
import sys
import urllib.request

import torch
import wandb

from asyncckpt import AsyncCheckpointer, TrainingState
from asyncckpt.training import Callbacks, CheckpointConfig


def log_to_wandb(state, checkpoint):
    if wandb.run is not None:
        wandb.log(
            {
                "checkpoint_epoch": state.epoch,
                "checkpoint_step": state.step,
                "checkpoint_id": checkpoint,
                **state.metrics,
            }
        )


def notify_chat(state, checkpoint):
    if state.metrics.get("val_loss", 1.0) < 0.1:
        text = f"Great checkpoint {checkpoint}: {state.format_summary()}"
        request = urllib.request.Request(
            webhook, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10):
            pass


root, webhook = sys.argv[1:]
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters())
config = CheckpointConfig(save_every_n_epochs=1, keep_last_n_checkpoints=2)
about = TrainingState(model_name="tiny", batch_size=16)
callbacks = Callbacks(log_to_wandb, notify_chat, about=about)

with AsyncCheckpointer(
    root, model=model, optimizer=optimizer, extra={"about": about},
    save=config.save_policy(), keep=config.retention_policy(), listeners=[callbacks],
) as ckpt:  # fmt: skip
    for epoch in range(1, 4):
        for step in range(10 * epoch - 9, 10 * epoch + 1):
            loss = model(torch.randn(16, 8)).square().mean()
            loss.backward(), optimizer.step(), optimizer.zero_grad()
            ckpt.step(step)
        val_loss = 0.2 / epoch  # what an evaluation would find
        if handle := ckpt.epoch_end(epoch, metrics={"loss": loss, "val_loss": val_loss}):
            handle.wait()
print(callbacks.names())
