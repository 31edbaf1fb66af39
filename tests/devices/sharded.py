"""What ranks run in `test_shards`: FSDP2, each rank's own shards saved while training goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from asyncckpt import AsyncCheckpointer, guarded
from asyncckpt.staging import pinning
from asyncckpt.state.stateful import State
from asyncckpt.testing import simacc
from tests.devices import mutations
from tests.devices.trainings import side


class Shards:
    """This rank's part of every parameter."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def state_dict(self) -> State:
        return {name: local(parameter) for name, parameter in self.model.named_parameters()}

    def load_state_dict(self, state: State) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                local(parameter).copy_(state[name])


def local(parameter: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor)
    return parameter.to_local().detach()


def saves_its_shards(root: Path, mutation: str | None = None) -> tuple[list[str], list[str], int]:
    """The shards that are not as they were at the save; races; and how many elements were saved."""
    with pytest.MonkeyPatch.context() as patch:
        if mutation is not None:
            getattr(mutations, mutation)(patch)
        return _saves_its_shards(root)


def _saves_its_shards(root: Path) -> tuple[list[str], list[str], int]:
    pinning._registrars["sim"] = pinning.Registrar(simacc.host_register, simacc.host_unregister)
    simacc.configure(kernel_latency=0.0002)
    group = dist.new_group(backend="cpu:gloo,sim:simccl")
    assert group is not None
    mesh = DeviceMesh.from_group(group, "sim")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to("sim")
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    shards = Shards(model)

    def step() -> None:
        model(torch.randn(4, 8).to("sim")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with AsyncCheckpointer(root, extra={"shards": guarded(shards)}, verify="off") as checkpointer:
        wanted = {name: tensor.clone() for name, tensor in shards.state_dict().items()}
        with simacc.hold(side()):
            handle = checkpointer.save(1)
            assert checkpointer._saver._preparing.planned is not None
            assert all(region.lazy for region in checkpointer._saver._preparing.planned.regions)
            step()  # returns, although nothing was copied
        handle.wait()
        step()
        changed = [name for name, tensor in shards.state_dict().items() if not torch.equal(tensor, wanted[name])]
        assert changed == list(wanted)
        checkpointer.restore(1)
        torch.accelerator.synchronize()
        wrong = [name for name, tensor in shards.state_dict().items() if not torch.equal(tensor, wanted[name])]
    torch.accelerator.synchronize()
    return wrong, simacc.races(), sum(tensor.numel() for tensor in wanted.values())
