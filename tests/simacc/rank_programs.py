"""What ranks run in `test_ranks`; each returns what the test compares."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from asyncckpt.testing import simacc


def make_group() -> dist.ProcessGroup:
    simacc.configure(kernel_latency=0.0002)  # so that there is always something to wait for
    group = dist.new_group(backend="cpu:gloo,sim:simccl")
    assert group is not None
    return group


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def batches(rank: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + rank)
    return [torch.randn(4, 8, generator=generator) for _ in range(3)]


def train(model: nn.Module, inputs: list[Tensor]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for batch in inputs:
        optimizer.zero_grad()
        model(batch.to("sim")).square().mean().backward()
        optimizer.step()


def finished(values: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    torch.accelerator.synchronize()
    return {name: tensor.detach().cpu() for name, tensor in values.items()}, simacc.races()


def data_parallel() -> tuple[dict[str, Tensor], list[str]]:
    group = make_group()
    model = DistributedDataParallel(make_model().to("sim"), process_group=group)
    train(model, batches(dist.get_rank()))
    return finished(model.module.state_dict())


def fully_sharded() -> tuple[dict[str, Tensor], list[str]]:
    mesh = DeviceMesh.from_group(make_group(), "sim")
    model = make_model().to("sim")
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(model, batches(dist.get_rank()))
    parameters = {}
    for name, tensor in model.state_dict().items():
        assert isinstance(tensor, DTensor)
        parameters[name] = tensor.full_tensor()
    return finished(parameters)


def collectives() -> dict[str, list[float]]:
    group = make_group()
    rank = dist.get_rank()
    results: dict[str, Tensor] = {}

    def own() -> Tensor:
        return torch.arange(2.0, device="sim") + 10 * rank

    for name, op in (("sum", dist.ReduceOp.SUM), ("mean", dist.ReduceOp.AVG), ("max", dist.ReduceOp.MAX)):
        results[name] = own()
        dist.all_reduce(results[name], op=op, group=group)
    results["broadcast"] = own()
    dist.broadcast(results["broadcast"], 1, group=group)
    results["reduce"] = own()
    dist.reduce(results["reduce"], 0, group=group)
    parts = [torch.empty(2, device="sim") for _ in range(2)]
    dist.all_gather(parts, own(), group=group)
    results["all_gather"] = torch.cat(parts)
    results["all_gather_into_tensor"] = torch.empty(4, device="sim")
    dist.all_gather_into_tensor(results["all_gather_into_tensor"], own(), group=group)
    results["reduce_scatter_tensor"] = torch.empty(1, device="sim")
    dist.reduce_scatter_tensor(results["reduce_scatter_tensor"], own(), op=dist.ReduceOp.AVG, group=group)
    results["reduce_scatter"] = torch.empty(1, device="sim")
    dist.reduce_scatter(results["reduce_scatter"], list(own().split(1)), group=group)
    results["scatter"] = torch.empty(2, device="sim")
    dist.scatter(results["scatter"], [own(), own() + 1] if rank == 0 else None, 0, group=group)
    gathered = [torch.empty(2, device="sim") for _ in range(2)]
    dist.gather(own(), gathered if rank == 0 else None, 0, group=group)
    results["gather"] = torch.cat(gathered) if rank == 0 else torch.empty(0)
    results["all_to_all_single"] = torch.empty(2, device="sim")
    dist.all_to_all_single(results["all_to_all_single"], own(), group=group)
    results["send"] = own()
    if rank == 0:
        dist.send(results["send"], 1, group=group)
    else:
        dist.recv(results["send"], 0, group=group)
    dist.barrier(group=group)
    assert simacc.races() == []
    return {name: tensor.tolist() for name, tensor in results.items()}


def asynchronous() -> list[bool]:
    """A collective waits for the stream, and not the host for the collective."""
    group = make_group()
    stream = torch.accelerator.current_stream()
    told = []
    with simacc.hold(stream):
        x = torch.ones(4, device="sim")
        work = dist.all_reduce(x, group=group, async_op=True)
        assert work is not None
        told.append(work.is_completed())
        work.wait()
        x.mul_(3)
        told.append(stream.query())
    told.append(x.tolist() == [6, 6, 6, 6])
    return told


def unwaited() -> list[str]:
    """A use of the result that does not wait for it."""
    group = make_group()
    x = torch.ones(4, device="sim")
    work = dist.all_reduce(x, group=group, async_op=True)
    x.mul_(3)
    assert work is not None
    work.wait()
    torch.accelerator.synchronize()
    return simacc.races()


def destroyed() -> list[float]:
    """The group goes before its collective has run."""
    group = make_group()
    x = torch.ones(2, device="sim")
    with simacc.hold(torch.accelerator.current_stream()):
        work = dist.all_reduce(x, group=group, async_op=True)
        assert work is not None
        work.wait()
        dist.destroy_process_group(group)
        del group, work
    values: list[float] = x.tolist()
    return values


def dropped() -> bool:
    """Whether memory is handed out again though a collective that nobody waits for still needs it."""
    group = make_group()
    with simacc.hold(torch.accelerator.current_stream()):
        x = torch.ones(4096, device="sim")
        address = x.data_ptr()
        dist.all_reduce(x, group=group, async_op=True)
        del x
        reused = torch.empty(4096, device="sim").data_ptr() == address
    torch.accelerator.synchronize()
    assert simacc.races() == []
    return reused
