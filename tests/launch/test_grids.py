"""E7 to E11: grids, the experiments that they make, and what those are called."""

from __future__ import annotations

import copy
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncckpt.errors import ConfigurationError, ValidationError
from asyncckpt.launch.config import ExperimentConfig, experiment
from asyncckpt.launch.grids import NamingStrategy, ParameterGrid, ParameterGridSearch

from .conftest import COMPLETE


def grid_of(name: str = "grid", /, **values: list[Any]) -> ParameterGrid:
    """A grid over paths that are written with two underscores for a dot."""
    grid = ParameterGrid(name)
    for key, each in values.items():
        grid.add_parameter(key.replace("__", "."), each)
    return grid


def names(
    base: dict[str, Any], strategy: NamingStrategy, *grids: ParameterGrid, existing: tuple[str, ...] = ()
) -> list[str]:
    search = ParameterGridSearch(base, existing=existing)
    search.set_naming_strategy(strategy)
    for grid in grids:
        search.add_grid(grid)
    found = [each.experiment_name for each in search.generate_experiments()]
    assert len({name.casefold() for name in found}) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+=_-]{0,99}", name) for name in found), found
    return found


# -- E7 ----------------------------------------------------------------------------------------------------


def test_e7_all_combinations_in_a_fixed_order() -> None:
    grid = grid_of(b=[1, 2], a__x=["p", "q", "r"])
    assert grid.get_parameter_count() == 6
    found = list(grid.generate_permutations())
    assert found == [{"b": b, "a.x": x} for b in (1, 2) for x in "pqr"]
    assert list(grid.generate_permutations()) == found


def test_e7_a_grid_without_parameters_has_no_combination() -> None:
    grid = ParameterGrid("empty", "of nothing")
    assert (grid.name, grid.description) == ("empty", "of nothing")
    assert grid.get_parameter_count() == len(list(grid.generate_permutations())) == 0


def test_e7_combinations_are_made_when_they_are_asked_for() -> None:
    grid = ParameterGrid("large")
    for number in range(20):
        grid.add_nested_parameter(f"custom_params.p{number}", list(range(10)))
    assert grid.get_parameter_count() == 10**20
    assert len(list(itertools.islice(grid.generate_permutations(), 10_001))) == 10_001


def test_e7_what_was_handed_out_or_in_is_not_shared() -> None:
    values: list[Any] = [{"deep": [1]}]
    grid = grid_of(custom_params__x=values)
    values[0]["deep"].append(2)
    next(grid.generate_permutations())["custom_params.x"]["deep"].append(3)
    assert list(grid.generate_permutations()) == [{"custom_params.x": {"deep": [1]}}]


def test_e7_values_are_what_a_file_says_for_them() -> None:
    grid = grid_of(a=[(1, 2)], b=[Path("x/y")], c=list(np.array([1, 2])), d=np.linspace(0, 1, 2).tolist(), e=[np.True_])
    first = next(grid.generate_permutations())
    assert first == {"a": [1, 2], "b": "x/y", "c": 1, "d": 0.0, "e": True}
    assert [type(value) for value in first.values()] == [list, str, int, float, bool]
    for values in (np.linspace(0, 2, 3), (0.0, 1.0, 2.0), range(3)):
        (another := ParameterGrid("another")).add_parameter("a", values)
        assert [each["a"] for each in another.generate_permutations()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("a", [float("nan")], "a[0] is nan"),
        ("a", [1, {"x": object()}], "a[1].x is a object"),
        ("optimizer.lr", [1], "optimizer.lr and training.learning_rate mean the same"),
        ("a", [], "a has no values"),
        ("a", "adam", "a takes a list of values, not 'adam'"),
        ("a", 3, "a takes a list of values"),
        ("a", {1, 2}, "a takes a list of values"),  # which the next process would count in another order
        ("a", {"x": 1}, "a takes a list of values"),
        ("experiment_name", ["x"], "experiment_name is made of what varies"),
        ("name", ["x"], "name is made of what varies"),
        ("", [1], "'' is no path"),
        ("a..b", [1], "is no path"),
        ("b", [1], "b is there already"),
        ("b.c", [1], "b.c lies in b, which is varied as a whole"),
        ("s", [1], "s.t lies in s"),
    ],
)
def test_e7_what_cannot_be_varied_is_refused(key: str, values: Any, said: str) -> None:
    grid = grid_of(b=[1], s__t=[1], training__learning_rate=[1])
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        grid.add_parameter(key, values)
    assert grid.keys == ("b", "s.t", "training.learning_rate")


# -- E8 ----------------------------------------------------------------------------------------------------


def test_e8_the_base_stays_as_it_is_and_nothing_leaks_from_grid_to_grid(least: dict[str, Any]) -> None:
    before = copy.deepcopy(least)
    search = ParameterGridSearch(least)
    search.add_grid(grid_of("rates", training__learning_rate=[9.0, 2.0]))
    later = search.create_grid("sizes", "of batches")
    later.add_parameter("training.batch_size", [8])
    found = list(search.generate_experiments())
    assert least == before
    assert [(each.training.learning_rate, each.training.batch_size) for each in found] == [(9.0, 2), (2.0, 2), (0.1, 8)]
    found[0].custom_params["mine"] = 1
    assert [each.custom_params for each in search.generate_experiments()] == [{}, {}, {}]
    assert len(search) == 3


def test_e8_every_section_of_the_base_is_in_every_experiment(manager: Any) -> None:
    base = manager.load_experiment(COMPLETE)
    for given in (base, manager.load_config(COMPLETE)):
        search = ParameterGridSearch(given)
        search.create_grid("one").add_parameter("model.dropout", [0.5])
        (found,) = search.generate_experiments()
        expected = manager.load_experiment(COMPLETE)
        expected.model.dropout, expected.experiment_name = 0.5, found.experiment_name
        assert found == expected


def test_e8_sections_that_are_missing_or_none_are_made_and_values_are_no_sections(least: dict[str, Any]) -> None:
    least |= {"slurm": None, "description": "text"}
    search = ParameterGridSearch(least)
    search.add_grid(grid_of(slurm__nodes=[2], scheduler__name=["cosine"], custom_params__a__b=[1]))
    (found,) = search.generate_experiments()
    assert found.slurm is not None
    assert found.scheduler is not None
    assert (found.slurm.nodes, found.scheduler.name, found.custom_params) == (2, "cosine", {"a": {"b": 1}})
    search.add_grid(grid_of("wrong", description__word=[1]))
    with pytest.raises(ValidationError, match=r"grid wrong .*description.word cannot be set: description is 'text'"):
        list(search.generate_experiments())


def test_e8_an_experiment_that_cannot_be_is_an_error_that_names_it(least: dict[str, Any]) -> None:
    search = ParameterGridSearch(least)
    search.set_naming_strategy(NamingStrategy.DESCRIPTIVE)
    search.add_grid(grid_of("drop", model__dropout=[0.1, 1.5], training__epochs=[1, 0]))
    experiments = search.generate_experiments()
    assert next(experiments).model.dropout == 0.1
    with pytest.raises(ValidationError, match=r"tiny_dropout=0\.1_epochs=0 of grid drop .*\n.*training\.epochs: is 0"):
        next(experiments)


def test_e8_grids_that_contradict_each_other_are_refused_before_anything_is_made(least: dict[str, Any]) -> None:
    search = ParameterGridSearch(least)
    search.add_grid(grid_of("whole", optimizer=[{"name": "sgd"}]))
    search.add_grid(grid_of("part", optimizer__name=["adam"]))
    with pytest.raises(ConfigurationError, match=r"optimizer\.name lies in optimizer"):
        search.generate_experiments()
    with pytest.raises(ConfigurationError, match="there is a grid part already"):
        search.create_grid("part")


def test_e8_a_reference_follows_what_a_grid_varies(least: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/data")
    least["custom_params"] = {"twice": "${model.hidden_size}", "folder": "${WHERE}"}
    search = ParameterGridSearch(least)
    search.add_grid(grid_of(model__hidden_size=[8, 16]))
    assert [each.custom_params for each in search.generate_experiments()] == [
        {"twice": 8, "folder": "/data"},
        {"twice": 16, "folder": "/data"},
    ]


def test_e8_words_of_others_are_ours_and_the_base_is_warned_of_once(
    least: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    least["optimizer"]["lr"] = least["training"].pop("learning_rate")
    search = ParameterGridSearch(least)
    search.add_grid(grid_of(optimizer__lr=[1.0, 2.0], checkpoint__every_seconds=[30]))
    found = list(search.generate_experiments())
    assert [each.training.learning_rate for each in found] == [1.0, 2.0]
    assert [each.checkpoint.save_every_n_minutes for each in found] == [0.5, 0.5]
    assert len(caplog.records) == 1


def test_e8_a_reference_in_a_grid_is_one_as_in_the_base(least: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    least["experiment_name"] = "of_${SECRET}"
    search = ParameterGridSearch(least)
    search.add_grid(
        grid_of(custom_params__x=["${SECRET}", "${training.epochs}", "\\${SECRET}", [["${training.epochs}"]]])
    )
    found = list(search.generate_experiments())
    assert [each.custom_params["x"] for each in found] == ["hunter2", 1, "${SECRET}", [[1]]]
    assert all(each.experiment_name.startswith("of_hunter2_") for each in found)
    again = ParameterGridSearch(found[0])
    again.add_grid(grid_of(seed=[1]))
    assert next(again.generate_experiments()).custom_params == {"x": "hunter2"}
    search.add_grid(grid_of("other", custom_params__x=["${NOWHERE}"]))
    with pytest.raises(ValidationError, match="needs NOWHERE, which is not set"):
        list(search.generate_experiments())


# -- E9 ----------------------------------------------------------------------------------------------------

PROGRAM = """
from asyncckpt.launch.grids import NamingStrategy, ParameterGrid, ParameterGridSearch
from asyncckpt.launch.config import ConfigurationManager
import sys
search = ParameterGridSearch(ConfigurationManager(".").read(sys.argv[1]))
search.set_naming_strategy(NamingStrategy[sys.argv[2]])
grid = search.create_grid("grid")
for key in sys.argv[3].split():
    grid.add_parameter(key, {"tags": [["a", "b"]], "model.dropout": [0.1 + 0.2]}.get(key, [7]))
print(*(each.experiment_name for each in search.generate_experiments()))
"""


@pytest.mark.parametrize("strategy", ["HASH_BASED", "DESCRIPTIVE"])
def test_e9_names_are_the_same_in_every_process(strategy: str) -> None:
    def made(seed: str, keys: str) -> str:
        command = [sys.executable, "-c", PROGRAM, str(COMPLETE), strategy, keys]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout

    first = made("1", "tags model.dropout model.num_heads")
    assert made("2", "tags model.dropout model.num_heads") == first
    if strategy == "HASH_BASED":
        assert made("3", "model.num_heads tags model.dropout") == first


def test_e9_a_hash_tells_values_apart_that_look_alike(least: dict[str, Any]) -> None:
    grid = grid_of(custom_params__x=[1, 1.0, True, "1", "true", None, "none", [1], 0.1, 0.1 + 1e-12])
    found = names(least, NamingStrategy.HASH_BASED, grid)
    assert all(re.fullmatch("tiny_[0-9a-f]{12}", name) for name in found)
    assert NamingStrategy.HASH is NamingStrategy.HASH_BASED


def test_e9_the_same_experiment_of_two_grids_has_two_names(least: dict[str, Any]) -> None:
    for strategy in NamingStrategy:
        found = names(least, strategy, grid_of("a", seed=[1]), grid_of("b", seed=[1]), grid_of("c", seed=[1]))
        assert strategy is NamingStrategy.SEQUENTIAL or [name[len(found[0]) :] for name in found] == ["", "-2", "-3"]


# -- E10 ---------------------------------------------------------------------------------------------------


def test_e10_names_say_what_is_varied(least: dict[str, Any]) -> None:
    grid = grid_of(training__learning_rate=[1e-5, 32.0], model__hidden_size=[64], deterministic=[True])
    assert names(least, NamingStrategy.PARAMETER, grid) == [
        "tiny_learning_rate=1e-05_hidden_size=64_deterministic=true",
        "tiny_learning_rate=32.0_hidden_size=64_deterministic=true",
    ]


def test_e10_fields_of_one_name_are_told_apart(least: dict[str, Any]) -> None:
    grid = grid_of(model__name=["a"], optimizer__name=["b"])
    assert names(least, NamingStrategy.DESCRIPTIVE, grid) == ["tiny_model.name=a_optimizer.name=b"]


def test_e10_values_that_no_file_name_can_hold_make_names_that_one_can(least: dict[str, Any]) -> None:
    values = [
        "../../etc/passwd", "a/b", "a b", "$(reboot)", "nuß", "x" * 300, "", ".", "-rf", "CON", "con", 0.1 + 0.2, 0.3,
        {"a": 1}, [1, 2], "1", 1, 1.0, True, "true", None, "none",
    ]  # fmt: skip
    least["experiment_name"] = "../my experiment;"
    found = names(least, NamingStrategy.DESCRIPTIVE, grid_of(custom_params__x=values))
    assert found[0].startswith("my-experiment_x=etc-passwd_")
    near = grid_of(training__learning_rate=[0.1 + 0.2, 0.3], seed=[1])  # told apart by themselves, not by their order
    assert [re.sub("_[0-9a-f]{8}$", "#", name) for name in names(least, NamingStrategy.DESCRIPTIVE, near)] == [
        "my-experiment_learning_rate=0.3_seed=1#", "my-experiment_learning_rate=0.3_seed=1"
    ]  # fmt: skip
    many = ParameterGrid("many")
    for number in range(40):
        many.add_parameter(f"custom_params.parameter{number}", [number, number + 1] if number > 35 else [number])
    assert max(map(len, names(least, NamingStrategy.DESCRIPTIVE, many))) <= 100


# -- E11 ---------------------------------------------------------------------------------------------------


def test_e11_numbers_go_on_after_those_that_are_there(least: dict[str, Any]) -> None:
    grid = grid_of(seed=[1, 2])
    assert names(least, NamingStrategy.SEQUENTIAL, grid) == ["tiny_0001", "tiny_0002"]
    existing = ("tiny_0009", "tiny_12", "tiny_x", "tiny_0100-2", "other_0500", "tiny")
    assert names(least, NamingStrategy.SEQUENTIAL, grid, existing=existing) == ["tiny_0013", "tiny_0014"]
    assert names(least, NamingStrategy.SEQUENTIAL, grid, existing=("tiny_9999",)) == ["tiny_10000", "tiny_10001"]


def test_e8_ten_thousand_experiments_are_made_one_by_one(least: dict[str, Any]) -> None:
    search = ParameterGridSearch(least)
    grid = search.create_grid("large")
    for number in range(20):
        grid.add_parameter(f"custom_params.p{number}", list(range(10)))
    first = next(search.generate_experiments())
    assert isinstance(first, ExperimentConfig)
    found = {each.name for each in itertools.islice(search.combinations(), 10_001)}
    assert len(found) == 10_001
    assert experiment(least).experiment_name == "tiny"


def test_e9_a_strategy_may_be_a_word_and_another_word_is_refused(least: dict[str, Any]) -> None:
    search = ParameterGridSearch(least)
    search.add_grid(grid_of(seed=[1]))
    word: Any = "descriptive"
    search.set_naming_strategy(word)
    assert [each.name for each in search.combinations()] == [f"{least['experiment_name']}_seed=1"]
    word = "short"
    with pytest.raises(ConfigurationError, match="naming='short': use NamingStrategy, or one of hash_based"):
        search.set_naming_strategy(word)
