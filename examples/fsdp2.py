"""A sharded training (FSDP2) that goes on where it was. Run: torchrun --nproc-per-node 2 examples/fsdp2.py ROOT

Each rank saves what it has of every parameter and of the optimizer's state, and gets it back: nothing is gathered, and
no collective is called for a save. So it is resumed by as many ranks, sharded in the same way. On GPUs: DEVICE is
"cuda", the backend "cpu:gloo,cuda:nccl", and each rank calls `torch.cuda.set_device` first.
"""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from asyncckpt import AsyncCheckpointer, RetentionPolicy, SavePolicy, guarded

DEVICE = "cpu"


class Shards:
    """This rank's part of a sharded model and its optimizer: plain tensors, in the memory that training computes in.

    All of it changes in the optimizer's step only, which is what `guarded` promises.
    """

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def state_dict(self):
        held = self.optimizer.state_dict()
        slots = {str(n): {key: local(value) for key, value in slot.items()} for n, slot in held["state"].items()}
        parameters = {name: local(parameter) for name, parameter in self.model.named_parameters()}
        return {"parameters": parameters, "slots": slots, "param_groups": held["param_groups"]}

    def load_state_dict(self, saved):
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                local(parameter).copy_(saved["parameters"][name])
        stepped = [p for group in self.optimizer.param_groups for p in group["params"]]
        slots = {
            int(n): {key: sharded_as(stepped[int(n)], value) for key, value in slot.items()}
            for n, slot in saved["slots"].items()
        }
        self.optimizer.load_state_dict({"state": slots, "param_groups": saved["param_groups"]})


class Buffers:
    """Those of a model, which every rank has whole. The forward pass may change them: so they are not `guarded`."""

    def __init__(self, model):
        self.model = model

    def state_dict(self):
        return dict(self.model.named_buffers())

    def load_state_dict(self, saved):
        for name, buffer in self.model.named_buffers():
            buffer.copy_(saved[name])


def local(value):
    """What this rank has of it."""
    return value.to_local().detach() if isinstance(value, DTensor) else value


def sharded_as(parameter, value):
    """A slot that was sharded as its parameter is; a count of steps is no such."""
    if not isinstance(value, torch.Tensor) or value.shape != local(parameter).shape:
        return value
    there = value.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(
        there, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def train(root, steps):
    """Train up to `steps` steps; the default process group is there. Returns what this rank has then."""
    mesh = init_device_mesh(DEVICE, (dist.get_world_size(),))
    torch.manual_seed(0)  # the same parameters on all ranks
    model = torch.nn.Sequential(torch.nn.Linear(16, 65), torch.nn.BatchNorm1d(65), torch.nn.Linear(65, 1)).to(DEVICE)
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    torch.manual_seed(dist.get_rank())  # and other batches
    shards, buffers = Shards(model, optimizer), Buffers(model)
    with AsyncCheckpointer(
        root, extra={"shards": guarded(shards), "buffers": buffers},
        save=SavePolicy(every_steps=5), keep=RetentionPolicy(last=2),
    ) as ckpt:  # fmt: skip
        state = ckpt.resume()  # None on the first start
        for step in range(state.step + 1 if state else 1, steps + 1):
            loss = model(torch.randn(32, 16, device=DEVICE)).square().mean()
            loss.backward(), optimizer.step(), optimizer.zero_grad()
            ckpt.step(step, metrics={"loss": loss})
    return {**shards.state_dict(), "buffers": buffers.state_dict()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train(sys.argv[1], 100)
    dist.destroy_process_group()
