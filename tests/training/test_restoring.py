"""Restoring all or parts of a state; what does not fit is an error before the first tensor changes."""

from __future__ import annotations

import copy
import enum
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import IncompatibleState, UnsupportedState
from asyncckpt.storage import MemoryStorage
from tests.golden.make import Box

from .runs import differences


class Parts:
    """A training, and all that may be restored of it."""

    def __init__(self, value: float, *, width: int = 3, extra: Any = None) -> None:
        self.model = nn.ModuleDict({"body": nn.Linear(3, width), "head": nn.Linear(width, 2)})
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=value, momentum=0.9)
        self.average = AveragedModel(self.model)
        self.box = Box({"value": value, "inner": {"tensor": torch.full((2,), value)}})
        for parameter in (*self.model.parameters(), *self.average.parameters()):
            parameter.data.fill_(value)
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.extra = {"ema": self.average, "box": self.box} if extra is None else extra

    def checkpointer(self, store: Any, **options: Any) -> AsyncCheckpointer:
        parts = {"model": self.model, "optimizer": self.optimizer, "extra": self.extra} | options
        return AsyncCheckpointer(store, **parts)

    def state(self) -> dict[str, Any]:
        live = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.average.state_dict(),
            "box": self.box.state,
        }
        return copy.deepcopy(live)


@pytest.fixture(scope="module")
def store() -> MemoryStorage:
    """A checkpoint in which everything is 1."""
    made = MemoryStorage("restoring")
    with Parts(1).checkpointer(made) as checkpointer:
        checkpointer.save(1).wait()
    return made


def ones(parts: Parts) -> set[str]:
    """The parts that are 1 by now."""
    values = {
        "model.body": parts.model["body"].weight[0, 0].item(),
        "model.head": parts.model["head"].weight[0, 0].item(),
        "optimizer": parts.optimizer.param_groups[0]["lr"],
        "extra.ema": next(parts.average.parameters()).flatten()[0].item(),
        "extra.box": parts.box.state["value"],
    }
    return {name for name, value in values.items() if value == 1}


ALL = {"model.body", "model.head", "optimizer", "extra.ema", "extra.box"}


@pytest.mark.parametrize(
    ("selection", "restored"),
    [
        ({}, ALL),
        ({"only": ["model"]}, {"model.body", "model.head"}),
        ({"only": ["model", "optimizer"]}, {"model.body", "model.head", "optimizer"}),
        ({"only": ["extra"]}, {"extra.ema", "extra.box"}),
        ({"only": ["extra.ema"]}, {"extra.ema"}),
        ({"only": ("extra.box", "optimizer")}, {"extra.box", "optimizer"}),
        ({"only": ["model.head"]}, {"model.head"}),
        ({"only": ["rng"]}, set()),
        ({"only": []}, set()),
        ({"exclude": ["extra.ema"]}, ALL - {"extra.ema"}),
        ({"exclude": ["extra"]}, ALL - {"extra.ema", "extra.box"}),
        ({"exclude": ["model.head"]}, ALL - {"model.head"}),
        pytest.param({"exclude": {"model", "rng"}}, ALL - {"model.body", "model.head"}, id="exclude a set"),
        ({"only": ["extra"], "exclude": ["extra.ema"]}, {"extra.box"}),
    ],
    ids=lambda given: str(sorted(given) if isinstance(given, set) else given),  # the same in every process
)
def test_only_and_exclude_name_parts_at_any_depth(
    store: MemoryStorage, selection: dict[str, Any], restored: set[str]
) -> None:
    parts = Parts(2)
    with parts.checkpointer(store) as checkpointer:
        assert checkpointer.restore(**selection).step == 1
    assert ones(parts) == restored


@pytest.mark.parametrize("part", ["modell", "extra.em", "ema", ""])
@pytest.mark.parametrize("how", ["only", "exclude"])
def test_a_part_that_is_nowhere_is_an_error(store: MemoryStorage, part: str, how: str) -> None:
    parts = Parts(2)
    with (
        parts.checkpointer(store) as checkpointer,
        pytest.raises(IncompatibleState, match=f"there is no part '{part}': the parts are model, optimizer, extra.ema"),
    ):
        checkpointer.restore(**{how: [part]})
    assert ones(parts) == set()


@pytest.mark.parametrize("part", ["model", "extra.ema"])
def test_one_part_needs_no_list_around_it(store: MemoryStorage, part: str) -> None:
    given, alone = Parts(2), Parts(2)
    for parts, name in ((given, [part]), (alone, part)):
        with parts.checkpointer(store) as checkpointer:
            checkpointer.restore(only=name)
    assert ones(given) == ones(alone) != set()
    for parts, name in ((given, [part]), (alone, part)):
        with parts.checkpointer(store) as checkpointer:
            checkpointer.restore(exclude=name)
    assert ones(given) == ones(alone)
    loaded = [asyncckpt.load(store, only=name).state for name in ([part], part)]
    assert list(differences(*loaded)) == []
    with pytest.raises(IncompatibleState, match="no part 'modle'"):
        asyncckpt.load(store, only="modle")


@pytest.mark.parametrize("part", ["model.nose", "model.hea", "optimizer.0", "extra.box.value.deeper"])
def test_nothing_to_restore_of_a_part_is_an_error(store: MemoryStorage, part: str) -> None:
    parts = Parts(2)
    with (
        parts.checkpointer(store) as checkpointer,
        pytest.raises(IncompatibleState, match=re.escape(f"the checkpoint of step 1 holds nothing named '{part}'")),
    ):
        checkpointer.restore(only=["model", part])
    assert ones(parts) == set()


class Mood(enum.Enum):
    CALM = 1


def test_who_does_not_ask_for_a_part_need_not_have_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, saved, fresh = MemoryStorage("classes"), nn.Linear(2, 2), nn.Linear(2, 2)
    boxes = {"moody": Box({"mood": Mood.CALM}), "plain": Box(7)}
    with AsyncCheckpointer(made, model=saved, extra=boxes) as checkpointer:
        checkpointer.save(1).wait()
    monkeypatch.delattr(sys.modules[__name__], "Mood")
    others = {"moody": Box(None), "plain": Box(None)}
    with AsyncCheckpointer(made, model=fresh, extra=others) as checkpointer:
        for selection in ({}, {"only": "extra"}, {"only": "extra.moody"}, {"exclude": "model"}):
            with pytest.raises(IncompatibleState, match="no such class"):
                checkpointer.restore(**selection)
        checkpointer.restore(only="model")
        checkpointer.restore(exclude="extra.moody")
    assert torch.equal(fresh.weight, saved.weight)
    assert (others["moody"].state, others["plain"].state) == (None, 7)
    assert set(asyncckpt.load(made, only=("model", "extra.plain")).state) == {"model", "extra"}
    with pytest.raises(IncompatibleState, match="no such class"):
        asyncckpt.load(made)


def test_random_state_stays_as_it_is_unless_it_is_asked_for(store: MemoryStorage) -> None:
    with Parts(2).checkpointer(store) as checkpointer:
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        checkpointer.restore(only=["model"])
        assert torch.equal(torch.rand(2), expected)
        checkpointer.restore()
        first = torch.rand(2)
        checkpointer.restore(only=["rng"])
        assert torch.equal(torch.rand(2), first)


# -- what does not fit ---------------------------------------------------------------------------------------


def narrower(parts: Parts) -> dict[str, Any]:
    parts.model["head"] = nn.Linear(4, 2)
    return {}


def deeper(parts: Parts) -> dict[str, Any]:
    parts.model["tail"] = nn.Linear(2, 2)
    return {}


def shallower(parts: Parts) -> dict[str, Any]:
    del parts.model["head"]
    return {}


def fewer_parameters(parts: Parts) -> dict[str, Any]:
    return {"optimizer": torch.optim.SGD(parts.model["head"].parameters())}


def more_groups(parts: Parts) -> dict[str, Any]:
    parts.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    return {}


UNFIT: dict[str, tuple[Callable[[Parts], dict[str, Any]], str]] = {
    "a shape": (narrower, r"model\.head\.weight has shape \(2, 4\), the checkpoint's \(2, 3\)"),
    "a layer more": (deeper, r"the checkpoint of model lacks tail\.bias, tail\.weight: use the same architecture"),
    "a layer less": (shallower, r"the checkpoint of model has in excess head\.bias, head\.weight"),
    "fewer parameters": (fewer_parameters, r"optimizer has groups of \[2\] parameters, the checkpoint's has \[4\]"),
    "more groups": (more_groups, r"optimizer has groups of \[4, 1\] parameters, the checkpoint's has \[4\]"),
    "a second optimizer": (
        lambda parts: {"optimizer": {"main": parts.optimizer}},
        r"the checkpoint holds no optimizer\.main",
    ),
    "one of a list": (lambda parts: {"optimizer": [parts.optimizer]}, r"no optimizer\.0 \(it holds one optimizer, by"),
    "another kind of optimizer": (
        lambda parts: {"optimizer": torch.optim.RMSprop(parts.model.parameters())},
        r"optimizer is RMSprop, and the checkpoint's is of another kind: it has dampening, .*, and no alpha, eps",
    ),
    "a part more": (
        lambda parts: {"extra": {**parts.extra, "late": Box({})}},
        r"holds no extra\.late \(it holds model, optimizer, extra, rng\): give the same objects",
    ),
    "another kind of part": (lambda parts: {"extra": {**parts.extra, "box": nn.Linear(1, 1)}}, r"extra\.box"),
    "a scheduler": (
        lambda parts: {"scheduler": torch.optim.lr_scheduler.StepLR(parts.optimizer, 1)},
        "holds no scheduler",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("call", ["resume", "restore"])
def test_what_does_not_fit_is_an_error_and_nothing_has_changed(store: MemoryStorage, name: str, call: str) -> None:
    parts = Parts(2)
    unfit, message = UNFIT[name]
    options = unfit(parts)
    before = parts.state()
    draws = torch.get_rng_state()
    with parts.checkpointer(store, **options) as checkpointer, pytest.raises(IncompatibleState, match=message):
        getattr(checkpointer, call)()
    assert list(differences(before, parts.state())) == []
    assert torch.equal(torch.get_rng_state(), draws)


@pytest.mark.parametrize(
    ("given", "said"), [(lambda one: [one], "a list of 1"), (lambda one: {"main": one}, "several: main")]
)
def test_one_optimizer_where_several_were_saved_is_told_so(given: Callable[[Any], Any], said: str) -> None:
    store = MemoryStorage("several")
    parts = Parts(1)
    with parts.checkpointer(store, optimizer=given(parts.optimizer)) as checkpointer:
        checkpointer.save(1).wait()
    with (
        Parts(2).checkpointer(store) as other,
        pytest.raises(IncompatibleState, match=f"optimizer is one, and was {said}"),
    ):
        other.resume()


@pytest.mark.parametrize("name", ["a layer more", "a layer less", "a part more", "a second optimizer", "one of a list"])
@pytest.mark.parametrize("call", ["resume", "restore"])
def test_the_way_out_that_is_named_is_there_for_both_calls(store: MemoryStorage, name: str, call: str) -> None:
    parts = Parts(2)
    with (
        parts.checkpointer(store, **UNFIT[name][0](parts)) as checkpointer,
        pytest.raises(IncompatibleState, match=r", or restore\(\.\.\., strict=False\)$"),
    ):
        getattr(checkpointer, call)()


@pytest.mark.parametrize("name", ["a layer more", "a layer less", "a part more", "a second optimizer"])
def test_without_strict_what_is_on_both_sides_is_restored(store: MemoryStorage, name: str) -> None:
    parts = Parts(2)
    with parts.checkpointer(store, **UNFIT[name][0](parts)) as checkpointer:
        if name in ("a layer more", "a layer less"):
            checkpointer.restore(strict=False, exclude=["optimizer", "extra.ema"])
        else:
            checkpointer.restore(strict=False)
    assert parts.model["body"].weight.eq(1).all()
    assert parts.box.state["value"] == 1
    if name == "a layer more":
        assert not parts.model["tail"].weight.eq(1).all()
    if name == "a second optimizer":
        assert parts.optimizer.param_groups[0]["lr"] == 2


def test_without_strict_a_shape_is_still_an_error_and_nothing_has_changed(store: MemoryStorage) -> None:
    parts = Parts(2)
    narrower(parts)
    before = parts.state()
    with parts.checkpointer(store) as checkpointer, pytest.raises(IncompatibleState, match="has shape"):
        checkpointer.restore(strict=False)
    assert list(differences(before, parts.state())) == []


@pytest.mark.parametrize(
    "error", [KeyError("x"), IndexError(1), ValueError("x"), TypeError("x"), AttributeError("x"), RuntimeError("x")]
)
def test_an_object_that_refuses_its_state_is_named(store: MemoryStorage, error: Exception) -> None:
    class Refusing(Box):
        def load_state_dict(self, state: Any) -> None:
            raise error

    parts = Parts(2)
    parts.extra["box"] = Refusing({})
    with (
        parts.checkpointer(store) as checkpointer,
        pytest.raises(IncompatibleState, match=r"extra\.box does not accept its saved state") as caught,
    ):
        checkpointer.restore()
    assert caught.value.__cause__ is error


# -- states of any form ----------------------------------------------------------------------------------------

FORMS: dict[str, Any] = {
    "list": [1, [2, "three"]],
    "tuple": (1, 2),
    "none": None,
    "number": 7,
    "tensor": torch.arange(3),
    "empty": {},
    "Counter": {"counts": Counter("abca")},
    "OrderedDict": OrderedDict(b=1, a=2),
    "defaultdict": {"of": defaultdict(list, a=[1])},
    "deque": {"window": deque([1, 2], maxlen=3)},
    "int keys": {1: "a", (2, 3): {4: "b"}},
    "tensors inside": {"list": [torch.ones(2)], "tuple": (torch.zeros(1), {"x": torch.ones(1)})},
}


@pytest.mark.parametrize("name", FORMS)
def test_a_state_of_any_form_comes_back_as_it_was(name: str) -> None:
    made, box, fresh = MemoryStorage("forms"), Box(FORMS[name]), Box("nothing yet")
    with AsyncCheckpointer(made, extra={"box": box}) as checkpointer:
        checkpointer.save(1).wait()
    with AsyncCheckpointer(made, extra={"box": fresh}) as checkpointer:
        checkpointer.restore()
    for found in (fresh.state, asyncckpt.load(made).state["extra"]["box"]):
        assert list(differences(FORMS[name], found)) == []


def test_what_was_restored_may_be_changed_and_restored_again() -> None:
    made, box = MemoryStorage("again"), Box({"tensor": torch.zeros(3), "list": [1]})
    with AsyncCheckpointer(made, extra={"box": box}) as checkpointer:
        checkpointer.save(1).wait()
        for _ in range(3):
            checkpointer.restore()
            assert box.state["tensor"].tolist() == [0, 0, 0]
            assert box.state["list"] == [1]
            box.state["tensor"].add_(1)
            box.state["list"].append(2)


# -- refused ---------------------------------------------------------------------------------------------------


class Plain:
    """Not stateful."""


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a lambda": (lambda: lambda x: x, "function"),
    "a generator": (lambda: (i for i in range(3)), "generator"),
    "a module": (lambda: nn.Linear(1, 1), "Linear"),
    "a torch generator": (torch.Generator, "Generator"),
    "a plain object": (Plain, "Plain"),
    "a class": (lambda: Plain, "type"),
    "an iterator": (lambda: iter([1]), "list_iterator"),
    "an exception": (lambda: ValueError("x"), "ValueError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_cannot_be_held_is_refused_by_its_path_and_leaves_the_next_save_alone(name: str) -> None:
    make, kind = REFUSED[name]
    box = Box({"fine": 1, "deep": [{"a key": make()}]})
    made = MemoryStorage("refused")
    with AsyncCheckpointer(made, model=nn.Linear(1, 1), extra={"box": box}) as checkpointer:
        for step in (1, 2):
            with pytest.raises(UnsupportedState) as caught:
                checkpointer.save(step)
            assert "extra.box.deep[0]['a key']: cannot hold a value of type" in str(caught.value)
            assert kind in str(caught.value)
            assert "state_dict()" in str(caught.value)
        box.state["deep"] = [{"a key": 2}]
        assert checkpointer.save(3).wait().step == 3
        assert [info.step for info in checkpointer.checkpoints()] == [3]


def test_an_open_file_is_refused(tmp_path: Path) -> None:
    made = MemoryStorage("refused")
    with (
        (tmp_path / "log").open("w") as file,
        AsyncCheckpointer(made, extra={"box": Box({"log": file})}) as checkpointer,
        pytest.raises(UnsupportedState, match=r"extra\.box\.log: cannot hold a value of type _io\.TextIOWrapper"),
    ):
        checkpointer.save(1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"extra": {"deep": [{"thing": Plain()}]}}, r"extra\.deep\.0\.thing is a Plain, which has no state_dict\(\)"),
        ({"model": Plain()}, r"model is a Plain, which has no state_dict\(\)"),
        ({"optimizer": [None]}, r"optimizer\.0 is a NoneType"),
        ({"extra": {1: Box({})}}, "extra has a name that is not a string: 1"),
        (
            {"dataloader": torch.utils.data.DataLoader([1, 2, 3])},
            r"dataloader is a DataLoader without state_dict\(\).*torchdata\.stateful_dataloader\.StatefulDataLoader",
        ),
        (
            {"dataloader": {"train": torch.utils.data.DataLoader([1])}},
            r"dataloader\.train is a DataLoader without state_dict\(\)",
        ),
    ],
    ids=["extra", "model", "none", "name", "loader", "named loader"],
)
def test_what_has_no_state_is_refused_at_construction(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        AsyncCheckpointer(MemoryStorage("refused"), **parts)
