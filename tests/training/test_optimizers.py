"""Every optimizer and schedule of torch, and the odd ones people write: resumed to the last bit, types and all."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.storage import MemoryStorage

from .runs import Training, differences
from .test_resume_exact import OPTIMIZERS as EVERYWHERE
from .test_resume_exact import of

STEPS, SAVED = 7, 3


def resumes_exactly(make: Callable[[int], Any], steps: int = STEPS, saved: int = SAVED) -> None:
    """What `make` builds from a seed trains alike with a save, and other objects that resume from it, in between."""
    straight = make(0)
    expected = [straight.step() for _ in range(steps)]
    end = straight.everything()
    store = MemoryStorage("exact")
    before = make(0)
    with before.checkpointer(store, verify="always") as checkpointer:
        losses = [before.step() for _ in range(saved)]
        checkpointer.save(saved)
        before.step()
    after = make(99)
    with after.checkpointer(store) as checkpointer:
        assert checkpointer.resume().step == saved
        losses += [after.step() for _ in range(steps - saved)]
    assert losses == expected
    assert list(differences(end, after.everything())) == []


# -- optimizers --------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[nn.Module], Any]] = {
    **{
        f"{kind} foreach": of(kind, foreach=True)
        for kind in ("SGD", "AdamW", "Adagrad", "Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop")
    },
    **{f"{kind} fused": of(kind, fused=True) for kind in ("SGD", "Adam", "AdamW", "Adagrad")},
    "Adafactor": of("Adafactor"),
    "Adam maximize": of("Adam", maximize=True, weight_decay=0.01),
    "NAdam decoupled": of("NAdam", weight_decay=0.1, decoupled_weight_decay=True),
    "SGD tensor lr": lambda model: torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1), momentum=0.9),
    "LBFGS line search": of("LBFGS", max_iter=3, line_search_fn="strong_wolfe"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_form_of_an_optimizer_resumes_exactly(name: str) -> None:
    resumes_exactly(lambda seed: Training(seed, OPTIMIZERS[name]))


class Sparse(Training):
    """An embedding with sparse gradients."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, lambda model: torch.optim.SGD(model.parameters()))
        self.model = nn.Embedding(16, 4, sparse=True)
        self.optimizers = [torch.optim.SparseAdam(self.model.parameters(), lr=0.1)]
        self.schedules = []
        self.average = torch.optim.swa_utils.AveragedModel(self.model)

    def step(self) -> str:
        (optimizer,) = self.optimizers
        optimizer.zero_grad()
        loss = self.model(torch.randint(16, (5,))).square().sum()
        loss.backward()
        optimizer.step()
        return loss.item().hex()


def test_sparse_adam_resumes_exactly() -> None:
    resumes_exactly(Sparse)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="came with torch 2.9")
def test_muon_beside_adamw_resumes_exactly() -> None:
    def split(model: nn.Module) -> list[torch.optim.Optimizer]:
        matrices = [p for p in model.parameters() if p.dim() == 2]
        others = [p for p in model.parameters() if p.dim() != 2]
        return [torch.optim.Muon(matrices, lr=0.1), torch.optim.AdamW(others)]

    resumes_exactly(lambda seed: Training(seed, split))


class Wrapped(torch.optim.LBFGS):
    """Asked for its state at every save, since it has something to say about it."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"kind": "wrapped"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict["kind"] == "wrapped"
        super().load_state_dict(state_dict)


def test_an_optimizer_with_a_state_dict_of_its_own_resumes_exactly() -> None:
    # LBFGS sums over its history: memory that is aligned otherwise would round otherwise.
    resumes_exactly(lambda seed: Training(seed, lambda m: Wrapped(m.parameters(), max_iter=2, history_size=3)))


def test_a_hook_of_an_optimizer_that_comes_later_has_its_say() -> None:
    training, store = Training(0, lambda m: torch.optim.Adam(m.parameters())), MemoryStorage("hook")
    training.step()
    (optimizer,) = training.optimizers
    with AsyncCheckpointer(store, optimizer=optimizer) as checkpointer:
        checkpointer.save(1).wait()
        handle = optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": 7})
        checkpointer.save(2).wait()
        handle.remove()
        checkpointer.save(3).wait()
    assert [asyncckpt.load(store, step).state["optimizer"].get("note") for step in (1, 2, 3)] == [None, 7, None]


class Counting(torch.optim.SGD):
    """Keeps things beside its parameters' state."""

    def step(self, closure: Any = None) -> Any:
        done = super().step(closure)
        self.state["steps"] = self.state.get("steps", 0) + 1
        self.state["norm"] = torch.stack([p.detach().norm() for p in self.param_groups[0]["params"]])
        self.state["named"] = {"last": float(self.state["norm"][0]), "kind": "sgd"}
        return done


def test_state_under_keys_that_are_no_parameters_resumes_exactly() -> None:
    resumes_exactly(lambda seed: Training(seed, lambda m: Counting(m.parameters(), lr=0.1, momentum=0.9)))


class Preconditioned(torch.optim.Optimizer):
    """State in containers, in text, and in a precision that is not the parameters'."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                wide = torch.zeros_like(parameter, dtype=torch.float64)
                state.update(factors=[wide, wide.clone()], master=(parameter.double(), {"sum": wide.clone()}))
                state["form"] = "float64"
            first, second = state["factors"]
            first.lerp_(parameter.grad.double(), 0.1)
            second.add_(first.square())
            state["master"][0].sub_(first / (second.sqrt() + 1e-6), alpha=0.1)
            state["master"][1]["sum"].add_(1e-9)
            parameter.copy_(state["master"][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_in_containers_and_in_more_precision_than_the_parameters_resumes_exactly(dtype: torch.dtype) -> None:
    resumes_exactly(lambda seed: Training(seed, lambda m: Preconditioned(m.parameters()), dtype))


def test_several_optimizers_by_name_each_get_their_own() -> None:
    class Named(Training):
        def checkpointer(self, root: Any, **options: Any) -> AsyncCheckpointer:
            first, second = self.optimizers
            return AsyncCheckpointer(
                root,
                model=self.model,
                optimizer={"weights": first, "biases": second},
                scheduler={"weights": self.schedules[0], "biases": self.schedules[1]},
                extra={"average": self.average},
                **options,
            )

    def split(model: nn.Module) -> list[torch.optim.Optimizer]:
        weights = [p for p in model.parameters() if p.dim() == 2]
        others = [p for p in model.parameters() if p.dim() != 2]
        return [torch.optim.Adam(weights), torch.optim.SGD(others, lr=0.1, momentum=0.9)]

    resumes_exactly(lambda seed: Named(seed, split))


class Growing(Training):
    """Thaws its last layer at the second step."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, lambda model: torch.optim.AdamW([model.first.weight], lr=0.01))
        self.schedules = []
        self.steps = 0

    def checkpointer(self, root: Any, **options: Any) -> AsyncCheckpointer:
        if self.steps == 0 and options.get("verify") is None:  # the new process builds what was there at the save
            self.thaw()
        return super().checkpointer(root, **options)

    def thaw(self) -> None:
        self.optimizers[0].add_param_group({"params": [self.model.last.bias, self.model.norm.weight], "lr": 0.5})
        self.steps = 2

    def step(self) -> str:
        self.steps += 1
        if self.steps == 2:
            self.thaw()
        return super().step()


def test_a_parameter_group_that_was_added_later_resumes_exactly() -> None:
    resumes_exactly(Growing)


# -- schedules ---------------------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 4, 4, 6]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=5),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=6, power=2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, mode="exp_range", gamma=0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.8)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=4), lr_scheduler.ExponentialLR(o, 0.8)], o
    ),
    "SWALR": lambda o: SWALR(o, swa_lr=0.5, anneal_epochs=4),
}


class Scheduled(Training):
    """One schedule of any kind, which may want to see the loss."""

    def __init__(self, seed: int, schedule: Callable[[torch.optim.Optimizer], Any]) -> None:
        super().__init__(seed, of("SGD", lr=0.05, momentum=0.9))
        self.own = schedule(self.optimizers[0])
        self.schedules = []

    def checkpointer(self, root: Any, **options: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(
            root, model=self.model, optimizer=self.optimizers, scheduler=self.own, extra={"a": self.average}, **options
        )

    def step(self) -> str:
        loss = super().step()
        self.own.step(*([float.fromhex(loss)] if isinstance(self.own, lr_scheduler.ReduceLROnPlateau) else []))
        return f"{loss} {float(self.optimizers[0].param_groups[0]['lr']).hex()}"

    def everything(self) -> dict[str, Any]:
        return super().everything() | {"schedule": self.own.state_dict()}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.filterwarnings("ignore:To get the last learning rate computed:UserWarning")
def test_every_schedule_resumes_exactly(name: str) -> None:
    resumes_exactly(lambda seed: Scheduled(seed, SCHEDULES[name]), steps=9, saved=4)


# -- types -------------------------------------------------------------------------------------------------


def test_R8_keys_betas_and_dtypes_are_what_they_were() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.8, 0.99))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    store = MemoryStorage("types")
    with AsyncCheckpointer(store, optimizer=optimizer) as checkpointer:
        checkpointer.save(1).wait()
    state = asyncckpt.load(store).state["optimizer"]
    assert list(differences(optimizer.state_dict(), state)) == []
    assert [type(key) for key in state["state"]] == [int, int]
    assert state["param_groups"][0]["betas"] == (0.8, 0.99)
    assert (state["state"][0]["step"].dtype, state["state"][0]["step"].device.type) == (torch.float32, "cpu")
    fresh = torch.optim.AdamW(nn.Linear(3, 3).parameters())
    fresh.load_state_dict(state)  # torch's own way takes it as it is
    assert list(differences(optimizer.state_dict(), fresh.state_dict())) == []


@pytest.mark.parametrize("options", [{"capturable": True}, {"differentiable": True}, {"lr": torch.tensor(0.25)}])
def test_what_a_group_says_comes_back(options: dict[str, Any]) -> None:
    store = MemoryStorage("groups")
    saved = torch.optim.Adam(nn.Linear(2, 2).parameters(), **options)
    with AsyncCheckpointer(store, optimizer=saved) as checkpointer:
        checkpointer.save(1).wait()
    fresh = torch.optim.Adam(nn.Linear(2, 2).parameters())
    with AsyncCheckpointer(store, optimizer=fresh) as checkpointer:
        checkpointer.restore()
    assert list(differences(saved.state_dict(), fresh.state_dict())) == []


def test_a_learning_rate_tensor_of_several_groups_is_one_tensor_again() -> None:
    rate = torch.tensor(0.5)
    model, store = nn.Linear(2, 2), MemoryStorage("shared")
    groups = [{"params": [p], "lr": rate} for p in model.parameters()]
    with AsyncCheckpointer(store, optimizer=torch.optim.SGD(groups)) as checkpointer:
        checkpointer.save(1).wait()
    fresh = torch.optim.SGD(copy.deepcopy(groups))
    with AsyncCheckpointer(store, optimizer=fresh) as checkpointer:
        checkpointer.restore()
    first, second = (group["lr"] for group in fresh.param_groups)
    first.fill_(2)
    assert second == 2


def test_what_is_restored_is_the_optimizers_own() -> None:
    model, store = nn.Linear(3, 3), MemoryStorage("own")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with AsyncCheckpointer(store, model=model, optimizer=optimizer) as checkpointer:
        checkpointer.save(1).wait()
        checkpointer.restore()
        first: Tensor = optimizer.state[model.weight]["momentum_buffer"]
        kept = first.clone()
        checkpointer.restore()
        optimizer.step()
        assert torch.equal(first, kept)
        assert first.data_ptr() % 64 == 0


def test_random_draws_go_on_exactly() -> None:
    def draws() -> tuple[object, ...]:
        return random.random(), np.random.standard_normal(), torch.randn(3).tolist(), torch.randperm(9).tolist()

    store = MemoryStorage("draws")
    with AsyncCheckpointer(store, model=nn.Linear(1, 1)) as checkpointer:
        random.gauss(0, 1)
        np.random.standard_normal()
        checkpointer.save(1).wait()
    expected = draws()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    with AsyncCheckpointer(store, model=nn.Linear(1, 1)) as checkpointer:
        checkpointer.resume()
        assert draws() == expected


# -- the first save ----------------------------------------------------------------------------------------

BORN_WITH_STATE = ("Adagrad", "Adagrad foreach", "Adagrad fused")
GROWING = ("LBFGS line search",)
"""Its history is not whole after a step: memory is faulted in again when there is more of it."""


@pytest.mark.parametrize("name", [*EVERYWHERE, *OPTIMIZERS])
def test_memory_for_the_first_save_is_there_from_the_first_step_on(name: str) -> None:
    """Memory of a snapshot is faulted in once it is known how large that is, and no save takes any after that."""
    training = Training(0, {**EVERYWHERE, **OPTIMIZERS}[name])
    with training.checkpointer(MemoryStorage("first")) as checkpointer:
        arenas = checkpointer._saver._arenas
        assert len(arenas.free) == (2 if name in BORN_WITH_STATE else 0)
        training.step()
        checkpointer.step(1)
        prepared = {arena.id for arena in arenas.free}
        assert len(prepared) == 2
        for step in (2, 3):
            training.step()
            checkpointer.step(step)
            checkpointer.save(step).wait()
        assert ({arena.id for arena in arenas.free} == prepared) is (name not in GROWING)
