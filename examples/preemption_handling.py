"""A training that is told to leave, twice, and is the same in the end. Run: python examples/preemption_handling.py ROOT

It trains in processes of its own: one that nobody disturbs, and one that gets SIGTERM in the middle of an epoch, is
started again, and again. The weights that both come to are the same to the last bit.
"""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from asyncckpt import Preemption
from asyncckpt.trainer import GenericTrainer, GenericTrainerConfig, TrainingCallback


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.Linear(16, 1))

    def forward(self, x, y):
        return (self.layers(x).squeeze(-1) - y).square().mean()


class Disturbed(TrainingCallback):
    """The cluster, which wants its machine back after so many batches of this process."""

    def __init__(self, batches):
        self.batches = batches

    def on_batch_end(self, trainer, batch_idx, logs):
        self.batches -= 1
        if self.batches == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def train(root, batches):
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    config = GenericTrainerConfig(
        epochs=3,
        checkpoint_dir=root,
        seed=0,
        gradient_accumulation_steps=4,
        save=None,
        preemption=Preemption(deadline=20),
    )
    trainer = GenericTrainer(config)
    trainer.add_callback(Disturbed(batches))
    data = DataLoader(TensorDataset(x, x.sum(-1)), batch_size=8, shuffle=True)
    trainer.fit(model, optimizer, data, DataLoader(TensorDataset(x[:40], x[:40].sum(-1)), batch_size=8))
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    Path(root, "weights").write_text(hashlib.sha256(weights).hexdigest())


def main(root):
    for name, disturbances in (("alone", [0]), ("disturbed", [7, 30, 0])):
        for batches in disturbances:
            command = [sys.executable, __file__, "--train", f"{root}/{name}", str(batches)]
            status = subprocess.run(command, check=False).returncode
            print(
                f"{name}: exit status {status}"
            )  # 143 is 128 plus SIGTERM: it has saved, and waits to be started again
            assert status == (128 + signal.SIGTERM if batches else 0)
    assert Path(root, "alone/weights").read_text() == Path(root, "disturbed/weights").read_text()
    print("the same weights, to the last bit")


if __name__ == "__main__":
    train(sys.argv[2], int(sys.argv[3])) if sys.argv[1] == "--train" else main(sys.argv[1])
