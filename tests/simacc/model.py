"""Model: a small network on the device, after its first step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def make_model(device: str = "sim") -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 8)).to(device)


def make_trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    forward_backward(model)
    optimizer.step()
    return model, optimizer


def forward_backward(model: nn.Module) -> None:
    model(torch.randn(16, 64, device="sim")).square().mean().backward()


def values(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def are_equal(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(some[name], others[name]) for name in others)
