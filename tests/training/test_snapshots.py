"""Snapshots hold the state at the save, whatever training does next; and what cannot be held is refused by path."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, guarded
from asyncckpt.errors import IncompatibleState, SaveFailed, TornSnapshot, UnsupportedState
from asyncckpt.staging import guards, schedule
from tests.training.runs import Net, Training, differences
from tests.training.test_resume_exact import of


class Held:
    """Holds every LAZY copy until it is released."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.threads: set[str] = set()
        self._copy = schedule.copy_group

    def __call__(self, destinations: list[Tensor], sources: list[Tensor]) -> None:
        if threading.current_thread().name == "asyncckpt-copy":
            self.entered.set()
            assert self.gate.wait(60)
        self._copy(destinations, sources)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    gate = Held()
    monkeypatch.setattr(schedule, "copy_group", gate)
    yield gate
    gate.gate.set()


def waiting(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_P2_a_step_waits_for_the_copy_and_forward_and_backward_do_not(tmp_path: Path, held: Held) -> None:
    training = Training(0, of("AdamW"))
    training.step()
    with AsyncCheckpointer(
        tmp_path, model=training.model, optimizer=training.optimizers[0], verify="off"
    ) as checkpointer:
        expected = {k: v.clone() for k, v in training.model.state_dict().items()}
        moments = training.optimizers[0].state[training.model.first.weight]["exp_avg"].clone()
        handle = checkpointer.save(1)
        assert held.entered.wait(60)
        training.model(torch.randn(4, 8)).sum().backward()
        step = waiting(training.optimizers[0].step)
        step.join(0.05)
        assert step.is_alive(), "the optimizer changed what was being copied"
        held.gate.set()
        step.join(60)
        handle.wait()
    state = asyncckpt.load(tmp_path).state
    assert list(differences(expected, dict(state["model"]))) == []
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], moments)
    assert not torch.equal(training.model.first.weight, expected["first.weight"])


def test_P2_without_the_hook_the_snapshot_would_be_torn(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "_ask_all", lambda: None)
    training = Training(0, of("SGD", lr=1.0))
    with AsyncCheckpointer(tmp_path, model=training.model, optimizer=training.optimizers[0], verify="off") as ckpt:
        before = training.model.first.weight.clone()
        handle = ckpt.save(1)
        training.model(torch.randn(4, 8)).sum().backward()
        training.optimizers[0].step()
        held.gate.set()
        handle.wait()
    assert not torch.equal(asyncckpt.load(tmp_path).state["model"]["first.weight"], before)


def test_P2_the_average_is_guarded_and_buffers_are_copied_in_the_call(tmp_path: Path, held: Held) -> None:
    training = Training(0, of("AdamW"))
    training.step()
    with training.checkpointer(tmp_path, verify="off") as checkpointer:
        average = {k: v.clone() for k, v in training.average.state_dict().items()}
        buffers = {k: v.clone() for k, v in training.model.named_buffers()}
        handle = checkpointer.save(1)
        training.model(torch.randn(4, 8))  # changes running statistics at once
        update = waiting(lambda: training.average.update_parameters(training.model))
        update.join(0.05)
        assert update.is_alive()
        held.gate.set()
        update.join(60)
        handle.wait()
    state = asyncckpt.load(tmp_path).state
    assert list(differences(average, dict(state["extra"]["average"]))) == []
    assert all(torch.equal(state["model"][k], v) for k, v in buffers.items())


def test_P2_values_and_unregistered_tensors_are_taken_in_the_call(tmp_path: Path, held: Held) -> None:
    class Bag:
        def __init__(self) -> None:
            self.state: dict[str, Any] = {"list": [1, 2], "tensor": torch.zeros(3), "dict": {"a": 1}}

        def state_dict(self) -> dict[str, Any]:
            return self.state

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = state

    bag, model = Bag(), Net()
    with AsyncCheckpointer(tmp_path, model=model, extra={"bag": bag}) as checkpointer:
        before = model.first.weight.clone()
        handle = checkpointer.save(1)
        bag.state["list"].append(3)
        bag.state["dict"]["a"] = 2
        bag.state["tensor"].fill_(9)
        with torch.no_grad():
            model.first.weight.zero_()  # no registered optimizer holds it, so it is EAGER
        held.gate.set()
        handle.wait()
    state = asyncckpt.load(tmp_path).state
    assert state["extra"]["bag"]["list"] == [1, 2]
    assert state["extra"]["bag"]["dict"] == {"a": 1}
    assert not state["extra"]["bag"]["tensor"].any()
    assert torch.equal(state["model"]["first.weight"], before)


def test_P2_a_guarded_object_is_copied_while_training_goes_on(tmp_path: Path, held: Held) -> None:
    average = Net()
    with AsyncCheckpointer(tmp_path, extra={"average": guarded(average)}) as checkpointer:
        before = average.first.weight.clone()
        handle = checkpointer.save(1)
        assert held.entered.wait(60)
        said = waiting(checkpointer.before_mutation)
        said.join(0.05)
        assert said.is_alive()
        held.gate.set()
        said.join(60)
        with torch.no_grad():
            average.first.weight.zero_()
        handle.wait()
    assert torch.equal(asyncckpt.load(tmp_path).state["extra"]["average"]["first.weight"], before)


def test_P2_an_embedding_that_its_forward_renormalises_is_copied_in_the_call(tmp_path: Path, held: Held) -> None:
    model = nn.Embedding(4, 3, max_norm=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with AsyncCheckpointer(tmp_path, model=model, optimizer=optimizer) as checkpointer:
        before = model.weight.detach().clone()
        handle = checkpointer.save(1)
        model(torch.arange(4))
        held.gate.set()
        handle.wait()
    assert not torch.equal(model.weight, before)
    assert torch.equal(asyncckpt.load(tmp_path).state["model"]["weight"], before)


@pytest.mark.parametrize("verify", ["sample", "always"])
def test_a_torn_snapshot_fails_its_handle_and_names_what_changed(tmp_path: Path, verify: Any) -> None:
    training = Training(0, of("SGD", lr=0.1))
    model, optimizer = training.model, training.optimizers[0]
    with AsyncCheckpointer(tmp_path, model=model, optimizer=optimizer, verify=verify) as checkpointer:
        handle = checkpointer.save(1)
        handle.wait_staged()
        again = checkpointer.save(2)
        again._settle = lambda: None  # as if nobody waited for it before the next step
        again.wait_staged()
        with torch.no_grad():
            model.first.weight.add_(1)
        training.step()
        with pytest.raises(SaveFailed, match=r"model\.first\.weight.*before_mutation") as caught:
            again.wait()
        assert isinstance(caught.value.__cause__, TornSnapshot)
        assert caught.value.__cause__.paths == ("model.first.weight",)
        assert handle.wait().step == 1
        assert checkpointer.save(3).wait().step == 3
        assert [c.step for c in checkpointer.checkpoints()] == [1, 3]


DTYPES = [d for d in vars(torch).values() if isinstance(d, torch.dtype)]


@pytest.mark.filterwarnings("ignore:ComplexHalf:UserWarning")
def test_every_dtype_and_form_comes_back_with_its_bits(tmp_path: Path) -> None:
    raw = torch.randint(0, 256, (48,), dtype=torch.uint8)
    base = torch.arange(24.0)
    tensors: dict[str, Tensor] = {
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(2, 0, 3),
        "transposed": base.view(4, 6).t().clone(memory_format=torch.preserve_format),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "strided": torch.arange(20)[::3],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
        "negated": torch.tensor([1 + 2j]).conj().imag,
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
    }
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        if not name.startswith("q") and name != "bool":
            tensors[name] = raw[: 48 // dtype.itemsize * dtype.itemsize].clone().view(dtype)
    tensors["bool"] = torch.tensor([True, False, True])

    class Bag:
        def state_dict(self) -> dict[str, Any]:
            return dict(tensors)

        def load_state_dict(self, state: dict[str, Any]) -> None:
            """Not restored."""

    with AsyncCheckpointer(tmp_path, extra={"bag": Bag()}) as checkpointer:
        checkpointer.save(1).wait()
    found = asyncckpt.load(tmp_path).state["extra"]["bag"]
    assert len(tensors) > 30
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        plain = tensor.resolve_conj().resolve_neg().contiguous()
        assert bytes_of(found[name]) == bytes_of(plain), name
    assert found["channels_last"].stride() == tensors["channels_last"].stride()
    assert found["transposed"].stride() == tensors["transposed"].stride()
    assert found["expanded"].stride() == (0, 1)


def bytes_of(tensor: Tensor) -> bytes:
    # A single element keeps an odd stride through contiguous(), and cannot be viewed as bytes then.
    flat = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor) if tensor.numel() == 1 else tensor.contiguous()
    if flat.numel() == 0:
        return b""
    real = torch.view_as_real(flat) if flat.dtype == torch.complex128 else flat
    return bytes(real.reshape(-1).view(torch.uint8).tolist())


def test_views_of_one_storage_share_memory_again_and_are_stored_once(tmp_path: Path) -> None:
    base = torch.arange(1000.0)

    class Bag:
        def state_dict(self) -> dict[str, Any]:
            return {"odd": base[1::2], "even": base[::2], "tail": base[900:]}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            """Not restored."""

    with AsyncCheckpointer(tmp_path, extra={"bag": Bag()}) as checkpointer:
        info = checkpointer.save(1).wait()
    found = asyncckpt.load(tmp_path).state["extra"]["bag"]
    assert found["odd"].tolist() == base[1::2].tolist()
    found["tail"].fill_(-1)
    assert found["odd"][-1] == found["even"][-1] == -1
    assert 4000 <= info.size < 4000 + 10_000


def test_stock_safetensors_opens_every_pack_under_the_states_own_names(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    training = Training(0, of("AdamW"))
    training.step()
    with training.checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1).wait()
    (pack,) = tmp_path.glob("data/*/*.safetensors")
    found = load_file(pack)
    assert torch.equal(found["model.first.weight"], training.model.first.weight)
    assert torch.equal(
        found["optimizer.0.state.0.exp_avg"], training.optimizers[0].state[training.model.first.weight]["exp_avg"]
    )


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_wrappers_leave_no_trace_in_names_and_load_into_plain_models_and_back(
    tmp_path: Path, wrap: Callable[[nn.Module], Any]
) -> None:
    model = Net()
    with AsyncCheckpointer(tmp_path, model=wrap(model)) as checkpointer:
        checkpointer.save(1).wait()
    assert asyncckpt.load(tmp_path).state["model"].keys() == Net().state_dict().keys()
    for target in (Net(), wrap(Net())):
        with AsyncCheckpointer(tmp_path, model=target) as checkpointer:
            checkpointer.restore()
        pairs = zip(target.parameters(), model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_submodules_compiled_one_by_one_leave_no_trace(tmp_path: Path) -> None:
    model = Net()
    plain = {k: v.clone() for k, v in model.state_dict().items()}
    model.first = torch.compile(model.first)
    with AsyncCheckpointer(tmp_path, model=model) as checkpointer:
        checkpointer.save(1).wait()
        assert asyncckpt.load(tmp_path).state["model"].keys() == plain.keys()
        with torch.no_grad():
            model.norm.weight.zero_()
        checkpointer.restore()
    assert torch.equal(model.norm.weight, plain["norm.weight"])


class Plain:
    """Not stateful."""


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: torch.eye(2).to_sparse(), r"extra.*bag.*sparse"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "bag"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "bag"),
        (lambda: torch.empty(2, device="meta"), "bag.*meta device"),
        (lambda: print, "bag"),
        (threading.Lock, "bag"),
    ],
    ids=["sparse", "nested", "quantised", "meta", "function", "lock"],
)
def test_what_cannot_be_held_is_refused_by_path_and_the_next_save_works(
    tmp_path: Path, make: Callable[[], object], match: str
) -> None:
    class Bag:
        def __init__(self) -> None:
            self.held = make()

        def state_dict(self) -> dict[str, Any]:
            return {"inner": [self.held]}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            """Not restored."""

    bag = Bag()
    with AsyncCheckpointer(tmp_path, extra={"bag": bag}) as checkpointer:
        with pytest.raises(UnsupportedState, match=match):
            checkpointer.save(1)
        bag.held = 1
        assert checkpointer.save(1).wait().step == 1


def test_what_has_no_state_is_refused_when_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"extra\.thing is a Plain.*state_dict"):
        AsyncCheckpointer(tmp_path, extra={"thing": Plain()})
    loader = torch.utils.data.DataLoader([1, 2, 3])
    with pytest.raises(TypeError, match="StatefulDataLoader"):
        AsyncCheckpointer(tmp_path, dataloader=loader)
    lazy = AsyncCheckpointer(tmp_path, model=nn.LazyLinear(2))
    with pytest.raises(UnsupportedState, match="no shape yet"):
        lazy.save(1)
    lazy.close()


def test_what_does_not_fit_is_refused_before_anything_changes(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path, model=Net()) as checkpointer:
        checkpointer.save(1).wait()
    wider = Net(width=9)
    before = {k: v.clone() for k, v in wider.state_dict().items()}
    with (
        AsyncCheckpointer(tmp_path, model=wider) as checkpointer,
        pytest.raises(IncompatibleState, match=r"model\..*shape \(9,"),
    ):
        checkpointer.restore()
    assert list(differences(before, dict(wider.state_dict()))) == []
    more = nn.ModuleDict({"inner": Net()})
    with AsyncCheckpointer(tmp_path, model=more) as checkpointer:
        with pytest.raises(IncompatibleState, match="lacks"):
            checkpointer.restore()
        checkpointer.restore(strict=False)
    optimizer = torch.optim.SGD(Net().parameters(), lr=1)
    with AsyncCheckpointer(tmp_path, model=Net(), optimizer=optimizer) as checkpointer:
        with pytest.raises(IncompatibleState, match="holds no optimizer"):
            checkpointer.restore()
        checkpointer.restore(only=("model",))
        checkpointer.restore(exclude=("optimizer",))


def test_an_empty_parameter_may_come_first(tmp_path: Path) -> None:
    model = nn.ParameterDict({"a": nn.Parameter(torch.empty(0)), "b": nn.Parameter(torch.ones(3))})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with AsyncCheckpointer(tmp_path, model=model, optimizer=optimizer) as checkpointer:
        checkpointer.save(1).wait()
    assert asyncckpt.load(tmp_path).state["model"]["b"].tolist() == [1, 1, 1]


def test_a_tensor_whose_elements_overlap_is_loaded(tmp_path: Path) -> None:
    class Bag:
        def state_dict(self) -> dict[str, Any]:
            return {"odd": torch.arange(4.0).as_strided((2, 2), (3, 0))}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            """Not restored."""

    with AsyncCheckpointer(tmp_path, extra={"bag": Bag()}) as checkpointer:
        checkpointer.save(1).wait()
    assert asyncckpt.load(tmp_path).state["extra"]["bag"]["odd"].tolist() == [[0, 0], [3, 3]]
