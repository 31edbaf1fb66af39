"""Training on the device gives what training on the CPU gives, without a race and without waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asyncckpt.testing import simacc

Make = Callable[[], nn.Module]

OPTIMIZERS = [
    (name, dict(zip(("foreach", "fused"), flags, strict=True)))
    for name in ("SGD", "Adam", "AdamW", "Adagrad")
    for flags in ((False, False), (True, False), (False, True))
]


def train(device: str, make: Make, name: str, steps: int = 4, **flags: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = make().to(device)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01, **flags)
    inputs = [torch.randn(8, 16) for _ in range(steps)]
    for batch in inputs:
        optimizer.zero_grad()
        model(batch.to(device)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4))


@pytest.mark.parametrize(("name", "flags"), OPTIMIZERS, ids=str)
def test_optimizers_do_what_they_do_on_the_cpu(name: str, flags: dict[str, bool]) -> None:
    expected = train("cpu", mlp, name, **flags)
    trained = train("sim", mlp, name, **flags)
    assert all(torch.allclose(trained[key], expected[key], atol=1e-4) for key in expected)


def test_capturable_adam_repeats_itself() -> None:
    first, second = (train("sim", mlp, "Adam", capturable=True, foreach=True) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 4, 2, groups=2),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.layers(x.view(-1, 1, 4, 4))
        result: Tensor = self.head(image.flatten(1))
        return result


def test_a_convolutional_network_trains() -> None:
    expected = train("cpu", Convolutional, "SGD")
    trained = train("sim", Convolutional, "SGD")
    assert all(torch.allclose(trained[key], expected[key], atol=1e-4) for key in expected)
    assert int(trained["layers.1.num_batches_tracked"]) == 4


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 16, max_norm=1.0)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x.abs() * 3).long().clamp(max=9)
        result: Tensor = self.layer(self.embedding(tokens))
        return result


def test_attention_and_embeddings_train() -> None:
    expected = train("cpu", Attention, "SGD")
    trained = train("sim", Attention, "SGD")
    assert all(torch.allclose(trained[key], expected[key], atol=1e-4) for key in expected)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x.abs() * 3).long().clamp(max=9)
        result: Tensor = self.bag(tokens)
        return result


def test_a_bag_of_embeddings_trains() -> None:
    expected, trained = train("cpu", Bag, "SGD"), train("sim", Bag, "SGD")
    assert all(torch.allclose(trained[key], expected[key], atol=1e-4) for key in expected)


def test_an_operator_that_the_cpu_does_not_have_is_named() -> None:
    with pytest.raises(NotImplementedError, match="simacc has no kernel for aten::_thnn_fused_lstm_cell"):
        nn.LSTM(4, 8).to("sim")(torch.ones(2, 3, 4, device="sim"))


def test_a_step_does_not_make_the_host_wait() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.BatchNorm1d(32), nn.Linear(32, 4)).to("sim")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    target = torch.zeros(8, dtype=torch.long).to("sim")

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 16, device="sim")), target).backward()
        optimizer.step()

    step()
    simacc.reset()
    with simacc.hold(torch.accelerator.current_stream()):
        step()
        assert not torch.accelerator.current_stream().query()
    assert simacc.stats().get("host_syncs", 0) == 0
    assert simacc.stats().get("sync_ops", 0) == 0


def test_autocast_and_the_gradient_scaler() -> None:
    torch.manual_seed(0)
    model = mlp().to("sim")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("sim", init_scale=2.0**10)
    before = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(8, 16, device="sim")
    for value, is_finite in ((1.0, True), (float("inf"), False)):
        optimizer.zero_grad()
        with torch.autocast("sim", dtype=torch.bfloat16):
            output = model(x * value)
            assert output.dtype == torch.bfloat16
        scaler.scale(output.float().square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        after = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        assert all(torch.equal(before[name], after[name]) for name in before) != is_finite
        before = after
    assert scaler.get_scale() == 2.0**9  # halved by the step that overflowed


def test_a_checkpoint_and_a_copy_of_a_model() -> None:
    import copy
    import io

    model = mlp().to("sim")
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    for name, tensor in twin.state_dict().items():
        assert tensor.device.type == "sim"
        assert torch.equal(tensor, loaded[name])


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
def test_dtypes_go_there_and_back(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0], [0, 1]]).to(dtype)
    y = x.to("sim")
    assert y.device.type == "sim"
    assert torch.equal(y.cpu(), x)
    assert torch.equal(y.t().cpu(), x.t())
    assert torch.equal(y.to(torch.float64 if not dtype.is_complex else dtype).cpu().to(dtype), x)


def test_conjugated_and_negated_views_go_back_as_their_values() -> None:
    x = torch.tensor([1 + 2j, 3 - 4j])
    y = x.to("sim")
    assert torch.equal(y.conj().cpu(), x.conj().resolve_conj())
    assert torch.equal(y.conj().imag.cpu(), x.conj().imag.resolve_neg())
    assert torch.equal((y.conj() * 2).cpu(), x.conj() * 2)
    assert torch.equal(torch.view_as_real(y).cpu(), torch.view_as_real(x))


def test_views_share_bytes() -> None:
    x = torch.zeros(4, 6, device="sim")
    x[1].fill_(1)
    x.t()[2].fill_(2)
    x.view(-1)[::7].fill_(3)
    x.unfold(1, 2, 2)[0, 1, 1].fill_(4)
    expected = torch.zeros(4, 6)
    expected[1].fill_(1)
    expected.t()[2].fill_(2)
    expected.view(-1)[::7].fill_(3)
    expected.unfold(1, 2, 2)[0, 1, 1].fill_(4)
    assert torch.equal(x.cpu(), expected)


def test_indexing_sorting_and_printing() -> None:
    x = torch.arange(12.0).view(3, 4).to("sim")
    index = torch.tensor([2, 0])
    assert x[index].tolist() == x[index.to("sim")].tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    x[index] = 0
    assert x[x > 4].tolist() == [5, 6, 7]
    assert x.sort(descending=True).values[1].tolist() == [7, 6, 5, 4]
    assert x.unique().tolist() == [0, 4, 5, 6, 7]
    assert torch.equal(x, x.clone())
    assert "device='sim:0'" in repr(x)
