"""What users type: every keyword is there, and one without effect says so instead of being ignored."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import asyncckpt
from asyncckpt import (
    AsyncCheckpointer,
    Budget,
    CheckpointInfo,
    Loaded,
    RetentionPolicy,
    SaveHandle,
    SavePolicy,
    TrainingState,
    guarded,
    load,
)
from asyncckpt.errors import IncompatibleState, UnsupportedState
from asyncckpt.storage import MemoryStorage

from .conftest import Make
from .trainings import ONE_GENERATION, Recorder, Toy, Training, saved, steps

KEYWORDS = {
    **dict.fromkeys(["model", "optimizer", "scheduler", "scaler", "dataloader", "extra", "save", "keep", "monitor"]),
    "on_busy": "coalesce",
    "on_failure": "warn",
    "budget": None,
    "generations": 2,
    "executor": "auto",
    "metrics": None,
    "listeners": (),
    "storage_options": None,
    "local": None,
    "mirror": None,
    "preemption": None,
    "verify": "sample",
    "overwrite": False,
    "close_timeout": 600,
}


def test_the_keywords_and_their_defaults_are_the_promised_ones() -> None:
    parameters = inspect.signature(AsyncCheckpointer).parameters
    found = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert found == KEYWORDS
    assert [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY] == ["root"]


def test_to_keep_the_best_of_nothing_in_particular_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"RetentionPolicy\(best=2\) needs monitor="):
        AsyncCheckpointer(tmp_path / "run", model=Toy(), keep=RetentionPolicy(best=2))
    assert list(tmp_path.iterdir()) == []


def test_a_retention_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="last=0"):
        RetentionPolicy(last=0)


@pytest.mark.parametrize(
    ("name", "value", "offered"),
    [
        ("on_busy", "queue", "coalesce, wait, skip"),
        ("on_failure", "ignore", "warn, raise"),
        ("verify", "never", "sample, always, off"),
        ("executor", "fork", "auto, thread, process"),
        ("monitor", "loss", '"min"'),
        ("monitor", ("loss", "lowest"), '"min"'),
        ("monitor", ("loss",), '"min"'),
        ("generations", 0, "at least 1"),
        ("generations", 1.5, "at least 1"),
        ("generations", "2", "at least 1"),
        ("close_timeout", None, "seconds, 0 or more"),
        ("close_timeout", -1, "seconds, 0 or more"),
        ("close_timeout", float("nan"), "seconds, 0 or more"),
        ("close_timeout", float("inf"), "seconds, 0 or more"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(name: str, value: object, offered: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=.*{offered}"):
        AsyncCheckpointer(MemoryStorage(), model=Toy(), **{name: value})


def test_a_monitor_may_be_a_list_as_configurations_have_it(make: Make) -> None:
    ckpt = make(model=Toy(), monitor=["loss", "min"])
    ckpt.save(1, metrics={"loss": 0.5}).wait()
    assert ckpt._asked.monitor == ("loss", "min")
    assert ckpt.best().step == 1


def test_a_choice_of_one_save_is_checked_too(make: Make) -> None:
    with pytest.raises(ValueError, match="on_busy='later'"):
        make(model=Toy()).save(1, on_busy="later")


def test_a_root_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"root='': give a path or a URL"):
        AsyncCheckpointer("", model=Toy())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("save", 100, r"save=100: give SavePolicy\(\.\.\.\)"),
        ("keep", 3, r"keep=3: give RetentionPolicy\(\.\.\.\)"),
        ("listeners", [print], r"listeners= has <built-in function print>: .*on_event"),
        ("listeners", [Recorder], "listeners= has <class .*Recorder'>: .*on_event"),
        ("model", Toy, "model is the class Toy itself"),
        ("extra", {"ema": {"slow": Toy}}, r"extra\.ema\.slow is the class Toy itself"),
    ],
)
def test_what_is_of_another_kind_is_refused_at_once_and_by_name(name: str, value: object, said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}"):
        AsyncCheckpointer(MemoryStorage(), **{name: value})


@pytest.mark.parametrize("root", [None, 5, b"run"], ids=repr)
def test_what_can_be_no_root_is_refused_by_name(root: object) -> None:
    with pytest.raises(TypeError, match=f"^root={re.escape(repr(root))}: give a path, a URL or a storage"):
        AsyncCheckpointer(root, model=Toy())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_checkpointer_can_be_neither_copied_nor_pickled_and_says_so(
    make: Make, tmp_path: Path, copied: Callable[[object], object]
) -> None:
    ckpt = make(tmp_path / "run", model=Toy())
    with pytest.raises(TypeError, match=f"^the checkpointer of {tmp_path / 'run'} cannot be copied or pickled"):
        copied({"ckpt": ckpt} if copied is not copy.copy else ckpt)


@pytest.mark.parametrize("metrics", [{1: 2, "a": 3}, {1: 2}, {"a": 3, ("b",): 1}], ids=str)
def test_a_metric_without_a_name_is_refused_at_the_call(
    make: Make, store: MemoryStorage, metrics: dict[object, float]
) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1))
    (name,) = [name for name in metrics if not isinstance(name, str)]
    for step, call in enumerate((ckpt.save, ckpt.step), 1):
        with pytest.raises(TypeError, match=re.escape(f"metrics have a name that is not a string: {name!r}")):
            call(step, metrics=metrics)
    assert ckpt.save(3, metrics={"a": 3}).wait().metrics == {"a": 3}


def test_no_notice_has_arrived(make: Make) -> None:
    assert make(model=Toy()).should_stop is False


def test_a_root_that_no_backend_understands_is_refused_by_name() -> None:
    with pytest.raises(asyncckpt.errors.StorageError, match="nothing://host/run"):
        AsyncCheckpointer("nothing://host/run", model=Toy())


@pytest.mark.parametrize(
    "form", [str, Path, "file://{}".format, lambda path: f"{path}/"], ids=["str", "path", "url", "/"]
)
def test_a_root_is_a_path_or_a_url(tmp_path: Path, form: object) -> None:
    with AsyncCheckpointer(form(tmp_path / "run"), model=Toy()) as ckpt:
        ckpt.save(1).wait()
    assert (tmp_path / "run/run.json").exists()


def test_what_the_calls_return(make: Make) -> None:
    ckpt = make(model=Toy(), monitor=("loss", "min"))
    handle = ckpt.save(3, epoch=1, metrics={"loss": 0.5})
    info = handle.wait(timeout=60)
    assert (type(handle), type(info)) == (SaveHandle, CheckpointInfo)
    fields = "id seq step epoch metrics size created digest tags pinned is_best partial code_version damaged message"
    assert [field.name for field in dataclasses.fields(info)] == fields.split()
    state = ckpt.resume()
    assert isinstance(state, TrainingState)
    assert (state.step, state.global_step, state.epoch, state.metrics, state.id, state.loss) == (
        3,
        3,
        1,
        {"loss": 0.5},
        "00000001",
        0.5,
    )
    assert abs(state.timestamp - info.created) < 1e-6


def test_load_needs_neither_a_model_nor_a_checkpointer(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1, 2)
    found = load(tmp_path / "run", 1)
    assert isinstance(found, Loaded)
    assert found.info.step == 1
    assert found.state["model"]["weight"].device == torch.device("cpu")
    assert set(load(str(tmp_path / "run"), only=("model",)).state) == {"model"}
    assert load(tmp_path / "run", device="meta").state["model"]["weight"].device == torch.device("meta")


def test_parts_are_one_object_a_list_or_a_mapping(make: Make, store: MemoryStorage) -> None:
    one, two = Training(), Training()
    ckpt = make(
        model={"generator": one.model, "critic": two.model},
        optimizer=[one.optimizer, two.optimizer],
        extra={"toy": guarded(Toy(5))},
    )
    ckpt.save(1).wait()
    state = load(store).state
    assert set(state) == {"model", "optimizer", "extra", "rng"}
    assert set(state["model"]) == {"generator", "critic"}
    assert len(state["optimizer"]) == 2
    assert state["extra"]["toy"]["weight"].unique().tolist() == [5]


def test_a_part_whose_name_is_no_text_is_refused_at_once(store: MemoryStorage) -> None:
    with pytest.raises(UnsupportedState, match=r"extra\.toys has a name with a lone surrogate.*: 'a\\ud800'"):
        AsyncCheckpointer(store, extra={"toys": {"a\ud800": Toy()}})


def test_restore_takes_parts_and_leaves_the_others(make: Make) -> None:
    one, two = Toy(1), Toy(2)
    ckpt = make(model={"one": one, "two": two})
    ckpt.save(1).wait()
    one.value = two.value = 9
    ckpt.restore(only=("model.one",))
    assert (one.value, two.value) == (1, 9)
    one.value = 9
    ckpt.restore(exclude=("model.one",))
    assert (one.value, two.value) == (9, 2)


def test_load_gives_the_parts_asked_for_and_nothing_else(make: Make, store: MemoryStorage) -> None:
    one, two = Training(), Training()
    parts = {"optimizer": [one.optimizer, two.optimizer], "model": {"one": one.model, "two": two.model}}
    make(**parts, extra={"rate": Rate()}).save(1).wait()
    assert set(load(store, only=("model.two", "extra.rate.value")).state) == {"model", "extra"}
    found = load(store, only=("model.two.weight", "optimizer.1", "extra")).state
    assert set(found["model"]) == {"two"}
    assert set(found["model"]["two"]) == {"weight"}
    assert [set(optimizer) for optimizer in found["optimizer"]] == [{"state", "param_groups"}]
    assert found["extra"] == {"rate": {"value": 0.5, "name": "cosine"}}


@pytest.mark.parametrize("part", ["modle", "model.three", "m"])
def test_a_part_that_is_not_there_is_an_error_and_not_an_empty_restore(
    make: Make, store: MemoryStorage, part: str
) -> None:
    toy = Toy(1)
    ckpt = make(model={"one": toy})
    ckpt.save(1).wait()
    toy.value = 9
    with pytest.raises(IncompatibleState, match=f"'{part}'.*model"):
        load(store, only=(part,))
    for options in ({"only": (part,)}, {"exclude": (part,)}):
        with pytest.raises(IncompatibleState, match=f"'{part}'.*model"):
            ckpt.restore(**options)
    assert toy.value == 9


class Rate:
    def state_dict(self) -> dict[str, object]:
        return {"value": 0.5, "name": "cosine"}

    def load_state_dict(self, state: dict[str, object]) -> None: ...


def test_before_mutation_makes_hand_written_updates_safe(make: Make, store: MemoryStorage) -> None:
    average = Toy(1)
    ckpt = make(extra={"average": guarded(average)}, verify="always")
    handles = []
    for step in range(1, 6):
        handles.append(ckpt.save(step))
        ckpt.before_mutation()
        average.value = step + 1
    ckpt.wait()
    assert steps(ckpt) == [1, 2, 3, 4, 5]
    assert [load(store, step).state["extra"]["average"]["weight"].max().item() for step in range(1, 6)] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_the_public_names_are_documented_and_found_by_dir() -> None:
    assert set(asyncckpt.__all__) <= set(dir(asyncckpt))
    assert [name for name in asyncckpt.__all__ if not inspect.getdoc(getattr(asyncckpt, name))] == []
    public = [name for name in vars(AsyncCheckpointer) if not name.startswith("_")]
    assert [name for name in public if not inspect.getdoc(getattr(AsyncCheckpointer, name))] == []
    with pytest.raises(AttributeError, match="no attribute 'Checkpointer'"):
        _ = asyncckpt.Checkpointer


def test_a_budget_that_means_nothing_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="memory=-1"):
        AsyncCheckpointer(tmp_path / "run", model=Toy(), budget=-1, executor="process")
    assert set(threading.enumerate()) <= before  # what other tests have left open may end meanwhile


def test_a_budget_is_in_whole_bytes_however_it_is_written(make: Make) -> None:
    assert make(model=Toy(), budget=1.5 * ONE_GENERATION).save(1).wait().step == 1
    with pytest.raises(ValueError, match=r"memory=inf.*None for no limit"):
        Budget(memory=math.inf)
