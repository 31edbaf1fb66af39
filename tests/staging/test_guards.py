"""What is LAZY may be copied late, because a guard stands before every change of it; everything else is EAGER."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import asyncckpt
from asyncckpt import AsyncCheckpointer, guarded
from asyncckpt.staging import guards, pieces
from asyncckpt.storage import MemoryStorage
from tests.golden.make import Box

from .held import Gate, Net, add_one, late, train, waiting


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


PARAMETERS = {"model.linear.weight", "model.linear.bias", "model.norm.weight", "model.norm.bias"}


# -- LAZY and EAGER ----------------------------------------------------------------------------------------


def test_P2_parameters_and_state_of_a_registered_optimizer_are_lazy_and_buffers_are_not(gate: Gate) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    lazy = late(gate, add_one(model, optimizer), model=model, optimizer=optimizer)
    state = {f"optimizer.state.{i}.{name}" for i in range(4) for name in ("step", "exp_avg", "exp_avg_sq")}
    assert lazy == PARAMETERS | state


def test_P2_parameters_of_an_optimizer_that_was_not_given_are_eager(gate: Gate) -> None:
    model = Net()
    sgd(model)
    assert late(gate, add_one(model), model=model) == set()


def test_c11_parameters_of_an_optimizer_that_is_not_saved_are_lazy_all_the_same(gate: Gate) -> None:
    model = Net()
    assert late(gate, add_one(model), exclude=("optimizer",), model=model, optimizer=sgd(model)) == PARAMETERS


def test_P2_frozen_parameters_are_eager_unless_the_optimizer_has_them(gate: Gate) -> None:
    model = Net()
    model.linear.requires_grad_(False)
    optimizer = torch.optim.SGD(model.norm.parameters())
    lazy = late(gate, add_one(model), model=model, optimizer=optimizer)
    assert lazy == {"model.norm.weight", "model.norm.bias"}


def test_P2_a_frozen_parameter_that_the_optimizer_has_is_lazy(gate: Gate) -> None:
    model = Net().requires_grad_(False)
    assert late(gate, add_one(model), model=model, optimizer=sgd(model)) == PARAMETERS


def test_P2_one_eager_sharer_makes_shared_memory_eager(gate: Gate) -> None:
    model = nn.Module()
    model.weight, model.free = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(2))
    model.register_buffer("row", model.weight.detach()[0])
    assert late(gate, add_one(model), model=model, optimizer=sgd(model)) == {"model.free"}


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_P2_an_embedding_that_its_forward_pass_renormalises_is_eager(gate: Gate, kind: Any) -> None:
    model = nn.ModuleDict({"capped": kind(4, 3, max_norm=0.1), "free": kind(4, 3)})
    optimizer = sgd(model)
    assert late(gate, add_one(model), model=model, optimizer=optimizer) == {"model.free.weight"}


def test_P2_an_embedding_stays_eager_when_an_average_holds_it_too(gate: Gate) -> None:
    model = nn.ModuleDict({"capped": nn.Embedding(4, 3, max_norm=0.1), "free": nn.Embedding(4, 3)})
    average = AveragedModel(model)
    lazy = late(gate, add_one(model, average), model=model, optimizer=sgd(model), extra={"average": average})
    assert lazy == {"model.free.weight", "extra.average.module.free.weight"}


def test_P2_an_averages_parameters_are_lazy_and_its_buffers_are_not(gate: Gate) -> None:
    average = AveragedModel(Net(), use_buffers=True)
    lazy = late(gate, add_one(average), extra={"average": average})
    assert lazy == {name.replace("model", "extra.average.module") for name in PARAMETERS}


def test_P2_an_average_with_an_update_of_its_own_is_eager(gate: Gate) -> None:
    class Unguarded(AveragedModel):
        def update_parameters(self, model: nn.Module) -> None:
            """Past the guard."""

    average = Unguarded(Net())
    assert late(gate, add_one(average), extra={"average": average}) == set()


def test_P2_everything_that_is_said_to_be_guarded_is_lazy(gate: Gate) -> None:
    first, second, plain = Net(), Net(), Net()
    extra = {"first": guarded(first), "more": guarded({"second": second}), "plain": plain}
    lazy = late(gate, add_one(first, second, plain), extra=extra)
    names = first.state_dict().keys()
    assert lazy == {f"extra.first.{name}" for name in names} | {f"extra.more.second.{name}" for name in names}


def test_P2_a_guarded_embedding_is_the_users_promise(gate: Gate) -> None:
    model = nn.Embedding(4, 3, max_norm=0.1)
    assert late(gate, add_one(model), extra={"table": guarded(model)}) == {"extra.table.weight"}


def test_P2_tensors_that_are_handed_out_are_eager_and_so_is_a_tensor_for_the_learning_rate(gate: Gate) -> None:
    model, box = Net(), Box({"a": torch.zeros(3), "nested": [torch.zeros(2), (torch.zeros(1),)]})
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1))

    def change() -> None:
        add_one(model, box)()
        optimizer.param_groups[0]["lr"].add_(1)

    assert late(gate, change, model=model, optimizer=optimizer, extra={"box": box}) == PARAMETERS


def test_P2_tensors_that_a_guarded_object_hands_out_are_lazy_wherever_it_was_given(gate: Gate) -> None:
    boxes = [Box({"a": torch.zeros(3), "nested": [torch.zeros(2)]}) for _ in range(4)]
    first, second, third, plain = boxes
    extra = {"first": guarded(first), "more": guarded({"second": second}), "list": [plain, guarded(third)]}
    lazy = late(gate, add_one(*boxes), extra=extra)
    names = ("first", "more.second", "list.1")
    assert lazy == {f"extra.{name}.{tensor}" for name in names for tensor in ("a", "nested.0")}


def test_P2_a_guarded_module_with_a_state_dict_of_its_own_is_lazy(gate: Gate) -> None:
    class Own(nn.Linear):
        def get_extra_state(self) -> int:
            return 1

        def set_extra_state(self, state: int) -> None:
            """Nothing to set."""

    model = Own(2, 2)
    assert late(gate, add_one(model), extra={"own": guarded(model)}) == {"extra.own.weight", "extra.own.bias"}


class Making:
    """Makes its tensors anew at each ``state_dict()``, some in one memory; notes the last ones that are copied."""

    def __init__(self) -> None:
        self.value = torch.arange(3000.0)
        self.made: list[weakref.ref[torch.Tensor]] = []

    def state_dict(self) -> dict[str, Any]:
        whole, row = self.value[:12].clone(), self.value.reshape(3, 1000).clone().t()
        state = {"low": whole[:8], "high": whole[5:], "row": row, "big": self.value * 2}
        self.made = [weakref.ref(state[name]) for name in ("high", "row", "big")]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


def there(tensors: list[weakref.ref[torch.Tensor]]) -> list[bool]:
    gc.collect()
    return [tensor() is not None for tensor in tensors]


@pytest.mark.parametrize("group", [32 << 20, 512], ids=["whole", "in pieces"])
def test_P2_what_a_guarded_object_makes_for_a_save_is_kept_until_it_is_copied_and_no_longer(
    gate: Gate, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "GROUP", group)
    making, plain, store = Making(), Making(), MemoryStorage("making")
    extra = {"it": guarded(making), "plain": plain}
    with AsyncCheckpointer(store, extra=extra, verify="off", generations=3) as checkpointer:
        wanted, handles, made, eager = [], [], [], []
        for step in (1, 2, 3):
            making.value += 1
            wanted.append(making.state_dict())
            handles.append(checkpointer.save(step))
            made.append(making.made)
            eager.append(plain.made)
        assert all(there(tensors) == [True] * 3 for tensors in made)
        assert all(there(tensors) == [False] * 3 for tensors in eager[1:])  # of the first ones the layout was made
        gate.open()
        for handle in handles:
            handle.wait()
        assert all(there(tensors) == [False] * 3 for tensors in made[1:])
    for step, state in enumerate(wanted, 1):
        assert_equal(asyncckpt.load(store, step).state["extra"]["it"], state)


def test_P2_a_module_with_a_state_dict_of_its_own_is_eager(gate: Gate) -> None:
    class Own(nn.Linear):
        def get_extra_state(self) -> int:
            return 1

        def set_extra_state(self, state: int) -> None:
            """Nothing to set."""

    model = Own(2, 2)
    assert late(gate, add_one(model), model=model, optimizer=sgd(model)) == set()


# -- who asks ----------------------------------------------------------------------------------------------


def held_save(gate: Gate, change: Callable[[], object], **parts: Any) -> dict[str, Any]:
    """What was saved, where `change` came while nothing was copied yet and had to wait for it."""
    store = MemoryStorage("held")
    with AsyncCheckpointer(store, verify="off", **parts) as checkpointer:
        handle = checkpointer.save(1)
        gate.wait_entered()
        with waiting(change):
            gate.open()
        handle.wait()
    return asyncckpt.load(store).state


KINDS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "AdamW": torch.optim.AdamW,
    "AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "LBFGS": torch.optim.LBFGS,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_P2_every_optimizer_waits_before_its_step(gate: Gate, kind: Callable[[Any], torch.optim.Optimizer]) -> None:
    model = Net()
    optimizer = kind(model.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(8, 4) * torch.arange(8).unsqueeze(1)).exp().sum()
        loss.backward()
        return loss

    model.eval()
    closure()
    optimizer.step(closure)
    closure()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    state = held_save(gate, lambda: optimizer.step(closure), model=model, optimizer=optimizer)
    assert_equal(state["model"], before[0])
    assert_equal(state["optimizer"]["state"], before[1])
    assert not torch.equal(model.linear.weight, before[0]["linear.weight"])


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def test_P2_an_optimizer_that_steps_inside_the_backward_pass_waits_too(gate: Gate) -> None:
    model = nn.Linear(4, 4)
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    for parameter, optimizer in optimizers.items():
        parameter.register_post_accumulate_grad_hook(lambda p, o=optimizer: o.step())
    loss = model(torch.ones(2, 4)).sum()
    before = model.weight.detach().clone()
    state = held_save(gate, loss.backward, model=model, optimizer=list(optimizers.values()))
    assert torch.equal(state["model"]["weight"], before)
    assert not torch.equal(model.weight, before)


def test_P2_a_step_of_another_optimizer_over_the_same_parameters_waits_too(gate: Gate) -> None:
    model = nn.Linear(4, 4)
    given, other = sgd(model), torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    before = model.weight.detach().clone()
    assert torch.equal(held_save(gate, other.step, model=model, optimizer=given)["model"]["weight"], before)


@pytest.mark.parametrize("ema", [False, True])
def test_P2_update_parameters_waits_and_copies_of_an_average_update_themselves(gate: Gate, ema: bool) -> None:
    model = Net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5) if ema else None)
    average.update_parameters(model)
    twin = copy.deepcopy(average)
    add_one(model)()
    before = average.module.linear.weight.detach().clone()
    state = held_save(gate, lambda: average.update_parameters(model), extra={"average": average})
    assert torch.equal(state["extra"]["average"]["module.linear.weight"], before)
    assert not torch.equal(average.module.linear.weight, before)
    assert torch.equal(twin.module.linear.weight, before)
    twin.update_parameters(model)
    assert torch.equal(twin.module.linear.weight, average.module.linear.weight)


def test_P2_before_mutation_waits(gate: Gate) -> None:
    average = Net()
    store = MemoryStorage("store")
    with AsyncCheckpointer(store, extra={"average": guarded(average)}) as checkpointer:
        before = average.linear.weight.detach().clone()
        handle = checkpointer.save(1)
        gate.wait_entered()

        def update() -> None:
            checkpointer.before_mutation()
            add_one(average)()

        with waiting(update):
            gate.open()
        handle.wait()
    assert torch.equal(asyncckpt.load(store).state["extra"]["average"]["linear.weight"], before)


def test_P2_restoring_waits_for_what_is_being_copied(gate: Gate) -> None:
    model, store = Net(), MemoryStorage("store")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        checkpointer.save(1).wait()
    with AsyncCheckpointer(store, model=model, optimizer=sgd(model), overwrite=True, verify="off") as checkpointer:
        add_one(model)()
        late_weight = model.linear.weight.detach().clone()
        handle = checkpointer.save(2)
        gate.wait_entered()
        with waiting(lambda: checkpointer.restore(1, only=["model"])):
            gate.open()
        handle.wait()
    assert torch.equal(asyncckpt.load(store).state["model"]["linear.weight"], late_weight)
    assert not torch.equal(model.linear.weight, late_weight)


def test_P2_forward_backward_and_zero_grad_do_not_wait(gate: Gate) -> None:
    model = Net()
    optimizer = sgd(model)
    with AsyncCheckpointer(MemoryStorage("store"), model=model, optimizer=optimizer, verify="off") as checkpointer:
        handle = checkpointer.save(1)
        gate.wait_entered()
        for _ in range(3):  # in this thread: it would wait for ever
            model(torch.randn(8, 4)).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.zero_grad()
        assert not handle.done()
        gate.open()
        handle.wait()


# -- the guards of several checkpointers -------------------------------------------------------------------


def test_a_step_waits_for_every_checkpointer_and_a_closed_one_is_asked_no_more(gate: Gate) -> None:
    model = Net()
    optimizer = sgd(model)
    model(torch.randn(8, 4)).sum().backward()
    closed = AsyncCheckpointer(MemoryStorage("closed"), model=model, optimizer=optimizer)
    closed.close()
    stores = [MemoryStorage("a"), MemoryStorage("b")]
    both = [AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="off") for store in stores]
    before = model.linear.weight.detach().clone()
    handles = [checkpointer.save(1) for checkpointer in both]
    with waiting(optimizer.step):
        gate.open()
    for checkpointer, handle, store in zip(both, handles, stores, strict=True):
        handle.wait()
        checkpointer.close()
        assert torch.equal(asyncckpt.load(store).state["model"]["linear.weight"], before)
    assert closed._saver.stager not in watching()


def watching() -> list[object]:
    return [known() for known in guards._guards.refs]


class Asked:
    """Has nothing to wait for."""

    def guard(self) -> None:
        """At once."""


def test_checkpointers_come_and_go_while_a_step_of_another_training_asks_them() -> None:
    first, second, third = Asked(), Asked(), Asked()
    guards.watch(first)
    guards.watch(second)
    asking = iter(guards._guards.refs)
    next(asking)
    guards.watch(third)
    guards.unwatch(first)
    assert second in [known() for known in asking]
    assert [each for each in watching() if isinstance(each, Asked)] == [second, third]
    guards.unwatch(second)
    guards.unwatch(third)


def test_a_checkpointer_that_is_forgotten_does_not_live_on_in_the_hook() -> None:
    model = Net()
    checkpointer = AsyncCheckpointer(MemoryStorage("forgotten"), model=model, optimizer=sgd(model))
    stager = weakref.ref(checkpointer._saver.stager)
    checkpointer.close()
    del checkpointer
    gc.collect()
    assert stager() is None


def test_what_is_gone_is_not_kept_in_the_hook_and_what_comes_twice_is_there_once() -> None:
    known, model = guards._Weakly[Net](), Net()
    known.add(Net())
    known.add(model)
    known.add(model)
    assert [ref() for ref in known.refs] == [model]
    known.discard(model)
    assert known.refs == ()


# -- each guard is needed ----------------------------------------------------------------------------------


@pytest.fixture
def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_ask_all", lambda: None)


def test_P2_mutant_without_the_hook_a_checkpoint_would_hold_the_next_step(gate: Gate, no_guard: None) -> None:
    model = Net()
    optimizer = sgd(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    store = MemoryStorage("mutant")
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="off") as checkpointer:
        handle = checkpointer.save(1)
        optimizer.step()  # does not wait
        gate.open()
        handle.wait()
    assert torch.equal(asyncckpt.load(store).state["model"]["linear.weight"], model.linear.weight)


def test_P2_mutant_without_the_guarded_update_a_checkpoint_would_hold_a_later_average(
    gate: Gate, no_guard: None
) -> None:
    model = Net()
    average = AveragedModel(copy.deepcopy(model))
    add_one(model)()
    store = MemoryStorage("mutant")
    with AsyncCheckpointer(store, extra={"average": average}, verify="off") as checkpointer:
        handle = checkpointer.save(1)
        average.update_parameters(model)  # does not wait
        gate.open()
        handle.wait()
    found = asyncckpt.load(store).state["extra"]["average"]["module.linear.weight"]
    assert torch.equal(found, model.linear.weight)


def test_P2_mutant_with_lazy_buffers_a_checkpoint_would_hold_later_statistics(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncckpt.construction import tracked

    lazy_of = tracked._lazy_of
    monkeypatch.setattr(tracked, "_lazy_of", lambda leaf: [*lazy_of(leaf), *model.buffers()])
    model = Net()
    store = MemoryStorage("mutant")
    with AsyncCheckpointer(store, model=model, optimizer=sgd(model), verify="off") as checkpointer:
        handle = checkpointer.save(1)
        model(torch.randn(8, 4))
        gate.open()
        handle.wait()
    found = asyncckpt.load(store).state["model"]
    assert found["norm.num_batches_tracked"] == 1
    assert torch.equal(found["norm.running_mean"], model.norm.running_mean)
