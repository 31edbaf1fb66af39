"""Gradients of all parameters: what is done with them at once is to the bit what torch does one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asyncckpt.trainer.gradients import Gradients


def optimizer_of(*parameters: nn.Parameter) -> torch.optim.Optimizer:
    """With a gradient of another magnitude for each but the last."""
    torch.manual_seed(0)
    for number, parameter in enumerate(parameters[:-1]):
        parameter.grad = torch.randn_like(parameter) * 10.0 ** (number - 2)
    return torch.optim.SGD(parameters, lr=0.1)


def made(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in [(33, 17), (5,), (64, 64), (3, 2, 2), (1,)]]


def gradients_of(parameters: list[nn.Parameter]) -> list[Tensor | None]:
    return [parameter.grad for parameter in parameters]


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
@pytest.mark.parametrize("kinds", [[torch.float32], [torch.float32, torch.bfloat16, torch.float64]])
def test_they_are_clipped_as_torch_clips_them(max_norm: float, kinds: list[torch.dtype]) -> None:
    one, other = ([p for kind in kinds for p in made(kind)] for _ in range(2))
    gradients = Gradients([optimizer_of(*one)])
    optimizer_of(*other)
    norm = gradients.clip(max_norm)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(other, max_norm))
    for mine, theirs in zip(gradients_of(one), gradients_of(other), strict=True):
        assert mine is theirs is None or (mine is not None and theirs is not None and torch.equal(mine, theirs))


class Odd(nn.Parameter):
    """One that may be anything: an optimizer's library, for one, keeps parts of it elsewhere."""


@pytest.mark.parametrize(("kind", "at_once"), [(nn.Parameter, True), (Odd, None)])
def test_what_is_no_plain_parameter_is_left_to_torch(
    kind: type[nn.Parameter], at_once: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_, foreach: asked.append(foreach))
    Gradients([optimizer_of(kind(torch.zeros(3)), nn.Parameter(torch.zeros(1)))]).clip(1.0)
    assert asked == [at_once]


def test_none_is_left_once_they_are_cleared_also_of_parameters_that_came_later() -> None:
    parameters = made()
    optimizer, late = optimizer_of(*parameters), nn.Parameter(torch.zeros(2))
    gradients = Gradients([optimizer])
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(2)
    gradients.clear()
    assert gradients_of([*parameters, late]) == [None] * 6


def test_an_optimizer_that_clears_them_in_its_own_way_does_so() -> None:
    asked: list[bool] = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            asked.append(set_to_none)

    wrapped = optimizer_of(*made())
    vars(wrapped)["zero_grad"] = lambda set_to_none=True: asked.append(set_to_none)
    Gradients([Own(made(), lr=0.1), wrapped]).clear()
    assert asked == [True, True]


def test_they_are_scaled() -> None:
    parameters = made()
    gradients = Gradients([optimizer_of(*parameters)])
    before = [None if gradient is None else gradient.clone() for gradient in gradients_of(parameters)]
    gradients.scale(4.0)
    for mine, theirs in zip(gradients_of(parameters), before, strict=True):
        assert mine is theirs is None or (mine is not None and theirs is not None and torch.equal(mine, theirs * 4))


def test_they_come_back_in_the_order_of_memory_of_their_parameters_and_sparse_ones_as_they_were() -> None:
    def parameters() -> list[nn.Parameter]:
        image = torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last)
        return [nn.Parameter(image), nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(7, 2))]

    before, after = parameters(), parameters()
    before[0].grad = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    for rows in ([1, 3], [3]):
        nn.functional.embedding(torch.tensor(rows), before[2], sparse=True).sum().backward()
    state = Gradients([torch.optim.SGD(before)]).state_dict()
    assert all(isinstance(value, Tensor | list | bool) for value in state["2"].values())
    Gradients([torch.optim.SGD(after)]).load_state_dict({**state, "0": state["0"].contiguous()})
    image, none, rows_ = gradients_of(after)
    assert image is not None
    assert rows_ is not None
    assert none is None
    assert image.stride() == before[0].stride()
    assert torch.equal(image, state["0"])
    assert not rows_.is_coalesced()
    assert torch.equal(rows_._indices(), torch.tensor([[1, 3, 3]]))
    assert torch.equal(rows_.to_dense()[:, 0], torch.tensor([0.0, 1, 0, 2, 0, 0, 0]))


def test_one_that_two_optimizers_train_is_scaled_and_clipped_once() -> None:
    shared = nn.Parameter(torch.zeros(2))
    shared.grad = torch.tensor([3.0, 4.0])
    gradients = Gradients([torch.optim.SGD([shared]), torch.optim.Adam([shared])])
    gradients.scale(2.0)
    assert (float(gradients.clip(1e9)), shared.grad.tolist()) == (10.0, [6.0, 8.0])
