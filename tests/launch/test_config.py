"""E3 to E6, E12 to E15, E43 to E45: configurations, from the file to what they mean for the runtime."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from asyncckpt import AsyncCheckpointer, Preempted, RetentionPolicy, SavePolicy
from asyncckpt.errors import AsyncCkptError, ConfigurationError, ValidationError
from asyncckpt.launch.config import CheckpointConfig, ConfigurationManager, ExperimentConfig, experiment, files
from asyncckpt.run.seeding import set_seed

from .conftest import COMPLETE


def problems(values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as raised:
        experiment(values)
    for path, what in raised.value.problems.items():
        assert f"\n  {path}: {what}\n" in f"{raised.value}\n"
    return dict(raised.value.problems)


# -- E3 ----------------------------------------------------------------------------------------------------


def test_e3_every_section_survives_load_save_and_load(manager: ConfigurationManager, tmp_path: Path) -> None:
    first = manager.load_experiment(COMPLETE)
    first.custom_params = {"depth": {"of": [1, 2.5, "1e-8", "no", "24:00:00"]}}
    first.preemption.max_preemptions = 7
    for name, form in (("again.yaml", "yaml"), ("again.json", "json")):
        manager.save_config(first, name, form)
        assert manager.load_experiment(name) == first
        assert experiment(manager.load_config(name)) == first


def test_e3_defaults_are_the_promised_ones_and_shared_with_nobody(least: dict[str, Any]) -> None:
    one, other = experiment(least), experiment(least)
    assert (one.scheduler, one.slurm, one.description, one.created_by, one.created_at, one.seed) == (None,) * 6
    assert (one.tags, one.version, one.deterministic, one.benchmark, one.custom_params) == ([], "1.0", True, False, {})
    one.tags.append("mine")
    one.custom_params["mine"] = 1
    one.checkpoint.monitor = "mine"
    assert other == experiment(least)


# -- E4 ----------------------------------------------------------------------------------------------------


def test_e4_the_complete_example_loads_and_validates_verbatim(
    manager: ConfigurationManager, caplog: pytest.LogCaptureFixture
) -> None:
    found = manager.load_experiment(COMPLETE)
    assert (found.optimizer.eps, found.optimizer.betas) == (1e-8, (0.9, 0.999))
    assert found.scheduler is not None
    assert found.slurm is not None
    assert (found.scheduler.min_lr, found.slurm.time_limit, found.seed) == (1e-6, "24:00:00", 42)
    assert manager.load_config(COMPLETE, validate=False)["optimizer"]["eps"] == 1e-8
    assert caplog.text == ""


def test_e4_numbers_in_quotes_are_numbers_and_a_time_without_quotes_is_one(
    manager: ConfigurationManager, tmp_path: Path
) -> None:
    text = COMPLETE.read_text().replace("1e-8", '"1e-8"').replace('"24:00:00"', "24:00:00").replace("512", '"512"')
    text = text.replace('"1.0"', "1.0").replace('"32G"', "32")
    (tmp_path / "quoted.yaml").write_text(f"{text}\ncreated_by: 7\n")
    found = manager.load_experiment("quoted.yaml")
    expected = manager.load_experiment(COMPLETE)
    expected.created_by = "7"
    assert expected.slurm is not None
    expected.slurm.mem = "32"
    assert found == expected
    values = manager.load_config("quoted.yaml")
    assert (values["optimizer"]["eps"], values["model"]["hidden_size"], values["version"]) == (1e-8, 512, "1.0")
    assert values["checkpoint"]["save_on_best"] is False  # what is left out is its default


def test_e4_a_date_is_a_text_with_and_without_quotes(manager: ConfigurationManager, least: dict[str, Any]) -> None:
    path = manager.project_root / "a.yaml"
    for day in ("2026-11-30", "2026-11-30 12:30:00"):
        manager.save_config({**least, "created_at": day}, path)
        assert f"created_at: '{day}'" in path.read_text()  # others take it for more
        for text in (path.read_text(), path.read_text().replace("'", "")):
            path.write_text(text)
            assert manager.load_experiment(path).created_at == day
    assert experiment({**least, "created_at": date(2026, 11, 30)}).created_at == "2026-11-30"


def test_e4_a_word_that_yaml_takes_for_a_truth_value_is_told(manager: ConfigurationManager, tmp_path: Path) -> None:
    (tmp_path / "norway.yaml").write_text(COMPLETE.read_text().replace('"transformer"', "no"))
    with pytest.raises(ValidationError, match=r"model\.name: is False; it has to be a text; .*put them in quotes"):
        manager.load_config("norway.yaml")


# -- E5 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "kept"), [("min", [2, 3, 5]), ("max", [1, 4, 5])])
def test_e5_the_best_so_many_by_the_monitored_metric_stay(tmp_path: Path, mode: Any, kept: list[int]) -> None:
    section = CheckpointConfig(save_top_k=2, monitor="score", mode=mode)
    with AsyncCheckpointer(
        tmp_path, model=torch.nn.Linear(1, 1), keep=section.retention(), monitor=section.monitored()
    ) as ckpt:
        for step, score in enumerate((0.5, 0.1, 0.2, 0.9, 0.3), 1):
            ckpt.save(step, metrics={"score": score}).wait()
        ckpt.wait()
        assert sorted(info.step for info in ckpt.checkpoints()) == kept  # and the newest, whatever it is worth


def test_e5_none_and_all_are_defined_and_a_mode_that_is_neither_is_refused(least: dict[str, Any]) -> None:
    assert CheckpointConfig(save_top_k=-1).retention() is None
    assert CheckpointConfig(save_top_k=-1, keep_last=4).retention() == RetentionPolicy(last=4)
    assert CheckpointConfig(save_top_k=0).retention() == RetentionPolicy(last=1)
    assert CheckpointConfig(save_top_k=0, keep_last=4).retention() == RetentionPolicy(last=4)
    assert CheckpointConfig(save_top_k=3).retention() == RetentionPolicy(best=3)
    found = problems({**least, "checkpoint": {"mode": "lowest", "save_top_k": -2}})
    assert found == {
        "checkpoint.mode": "is 'lowest'; use one of min, max",
        "checkpoint.save_top_k": "is -2; use -1 or more",
    }


def test_e5_an_epoch_without_the_monitored_metric_is_told_once_and_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    section = CheckpointConfig(save_top_k=2, monitor="val_loss")
    with AsyncCheckpointer(
        tmp_path,
        model=torch.nn.Linear(1, 1),
        save=section.save_policy(),
        keep=section.retention(),
        monitor=section.monitored(),
    ) as ckpt:
        for epoch in (1, 2, 3):
            ckpt.step(epoch, metrics={"loss": 1.0})
            ckpt.epoch_end(epoch, metrics={"loss": 1.0} if epoch < 3 else None)
        ckpt.wait()
        assert ckpt.best() is None
    assert caplog.text.count("epoch 1 has no val_loss, which decides what is best; it has loss") == 1
    assert "epoch 2" not in caplog.text


# -- E6 ----------------------------------------------------------------------------------------------------


def test_e6_one_preemption_too_many_ends_the_run_and_the_count_survives_restarts(
    tmp_path: Path, least: dict[str, Any]
) -> None:
    asked = experiment({**least, "preemption": {"max_preemptions": 2, "grace_period_seconds": 20}}).preemption
    with AsyncCheckpointer(tmp_path, model=torch.nn.Linear(1, 1)) as ckpt:
        ckpt.save(1)
    codes = []
    for step in (2, 3, 4):
        ckpt = AsyncCheckpointer(tmp_path, model=torch.nn.Linear(1, 1), preemption=asked.settings())
        ckpt.resume()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Preempted) as raised:
            ckpt.step(step)
        codes.append(raised.value.code)
        ckpt.close()
    assert codes == [128 + signal.SIGUSR1, 128 + signal.SIGUSR1, 1]


def test_e6_the_emergency_save_gets_no_more_than_it_may_take_and_than_there_is(least: dict[str, Any]) -> None:
    def deadline(**section: float) -> float:
        return experiment({**least, "preemption": section}).preemption.settings().deadline

    assert deadline(timeout_minutes=5, grace_period_seconds=60) == 60
    assert deadline(timeout_minutes=0.01, grace_period_seconds=60) == 0.6
    with pytest.raises(ValidationError, match=r"grace_period_seconds: is 0\.0; use a number above 0"):
        deadline(grace_period_seconds=0)
    for requeue, expected in ((True, "auto"), (False, "none")):
        assert experiment({**least, "preemption": {"requeue": requeue}}).preemption.settings().requeue == expected


# -- E12 ---------------------------------------------------------------------------------------------------


def test_e12_a_relative_path_is_one_of_the_project_or_of_its_configurations(tmp_path: Path) -> None:
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "a.json").write_text('{"from": "settings"}')
    (tmp_path / "b.yaml").write_text("from: root")
    manager = ConfigurationManager(tmp_path, tmp_path / "settings")
    for name in ("a.json", "settings/a.json", tmp_path / "settings" / "a.json"):
        assert manager.load_config(name, validate=False) == {"from": "settings"}
    assert manager.load_config(Path("b.yaml"), validate=False) == {"from": "root"}
    with pytest.raises(ConfigurationError, match=r"no configuration .*/c\.yaml or .*/settings/c\.yaml"):
        manager.load_config("c.yaml")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "x = 1", "a configuration is a .yaml, .yml or .json file"),
        ("a.yaml", "", "is empty"),
        ("a.yaml", "# nothing\n", "is empty"),
        ("a.json", "", "is empty"),
        ("a.yaml", "- 1\n- 2\n", "holds list"),
        ("a.yaml", "a: [1", "cannot be read: .*line 1"),
        ("a.yaml", "a: 1\na: 2\n", "'a' is there twice"),
        ("a.yaml", "a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a.json", '{"a": 1,}', "cannot be read"),
    ],
)
def test_e12_what_cannot_be_read_is_an_error_that_names_the_file(
    manager: ConfigurationManager, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=f"(?s){name}.*{said}"):
        manager.load_config(name, validate=False)


def test_e12_what_is_no_configuration_is_told_with_the_way_out(
    manager: ConfigurationManager, tmp_path: Path, least: dict[str, Any]
) -> None:
    for call, said in (
        (lambda: experiment(cast(Any, "base.yaml")), "'base.yaml'; it has to be a mapping: a file is read by Config"),
        (lambda: manager.save_config(cast(Any, [1]), "x.yaml"), r"\[1\] is no configuration: give a mapping"),
        (lambda: manager.compose_configs(least, cast(Any, "x.yaml")), r"overrides is 'x.yaml': give a list"),
        (lambda: manager.compose_configs(least, cast(Any, {"a": 1})), r"overrides is {'a': 1}: give a list"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            call()
    (tmp_path / "configs").mkdir(exist_ok=True)
    (tmp_path / "configs/lost.yaml").write_text("a: ${b}\nb: ${a}\n")
    for load in (manager.load_config, manager.load_experiment):
        with pytest.raises(ConfigurationError, match=r"lost\.yaml"):
            load("lost.yaml")


def test_e12_what_was_loaded_is_the_callers_to_change(manager: ConfigurationManager) -> None:
    loads: list[Callable[[Path], dict[str, Any]]] = [
        manager.load_config, partial(manager.load_config, validate=False), manager.read,
    ]  # fmt: skip
    for load in loads:
        found = load(COMPLETE)
        found["model"]["dropout"] = 99
        found["tags"].append("mine")
        again = load(COMPLETE)
        assert (again["model"]["dropout"], again["tags"]) == (0.1, ["experiment", "baseline"])


def test_e12_a_changed_file_is_read_again_also_within_one_tick_of_the_clock(
    manager: ConfigurationManager, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    for value in (1, 2):
        path.write_text(f"value: {value}")
        os.utime(path, ns=(10**18, 10**18))
        assert manager.load_config("a.yaml", validate=False) == {"value": value}
    assert manager.load_config("a.yaml", validate=False, use_cache=False) == {"value": 2}


def test_e12_a_file_that_is_the_same_is_parsed_once_unless_that_is_not_wanted(
    manager: ConfigurationManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(COMPLETE.read_text())
    parsed: list[Path] = []
    read = files.read

    def told(path: Path, data: bytes) -> dict[str, Any]:
        parsed.append(path)
        return read(path, data)

    monkeypatch.setattr(files, "read", told)
    for _ in range(3):
        manager.load_config("a.yaml", validate=False)
        manager.load_experiment("a.yaml")
        manager.compose_configs(Path("a.yaml"))
    assert len(parsed) == 1
    manager.load_config("a.yaml", validate=False, use_cache=False)
    assert len(parsed) == 2


def test_e12_references_are_looked_up_in_the_environment_and_in_the_configuration(
    manager: ConfigurationManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", "/data")
    monkeypatch.setenv("SIZE", "64")
    monkeypatch.delenv("NOWHERE", raising=False)
    (tmp_path / "a.yaml").write_text(
        "a: ${HERE}/x\nb: ${NOWHERE:-none}\nc: ${d.e}\nd: {e: 3}\nf: ['${HERE}']\ng: '\\${HERE}'\n"
        "h: ${oc.env:NOWHERE, none}\n"
    )
    found = manager.load_config("a.yaml", validate=False)
    assert found == {"a": "/data/x", "b": "none", "c": 3, "d": {"e": 3}, "f": ["/data"], "g": "${HERE}", "h": "none"}
    monkeypatch.setenv("HERE", "/other")
    assert manager.load_config("a.yaml", validate=False)["a"] == "/other/x"
    (tmp_path / "b.yaml").write_text(COMPLETE.read_text().replace("512", "${SIZE}"))
    assert manager.load_experiment("b.yaml").model.hidden_size == 64
    (tmp_path / "c.yaml").write_text("a: {b: ['${NOWHERE}']}")
    with pytest.raises(ConfigurationError, match=r"c\.yaml: a\.b\[0\] needs NOWHERE, which is not set"):
        manager.load_config("c.yaml", validate=False)
    (tmp_path / "d.yaml").write_text("a: ${b.c}")
    with pytest.raises(ConfigurationError, match=r"leads nowhere: .*b"):
        manager.load_config("d.yaml", validate=False)
    (tmp_path / "e.yaml").write_text("a: {b: '???'}")
    with pytest.raises(ConfigurationError, match=r"leads nowhere: (?s:.)*a\.b"):
        manager.load_config("e.yaml", validate=False)


def test_e12_a_configuration_that_is_wrong_is_not_loaded(manager: ConfigurationManager, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(COMPLETE.read_text().replace("epochs: 100", "epochs: 0"))
    with pytest.raises(ValidationError, match=r"a\.yaml cannot be used:\n  training\.epochs: is 0"):
        manager.load_config("a.yaml")
    with pytest.raises(ValidationError, match=r"a\.yaml cannot be used:\n  training\.epochs: is 0"):
        manager.load_experiment("a.yaml")
    assert manager.load_config("a.yaml", validate=False)["training"]["epochs"] == 0


# -- E13 ---------------------------------------------------------------------------------------------------


SECRETS = """
custom_params:
  token: ${SECRET}
  url: https://me:${SECRET}@host
  copy: ${custom_params.url}/x
  other: ${oc.env:SECRET}
  text: ${SECRET:-none} and \\${this}
  path: C:\\\\${SECRET}
  inside: ${custom_params.of.${WHICH}}
  deeper: ${custom_params.${custom_params.where}.${WHICH}}
  where: of
  both: ${SECRET}X${SECRET}
  braces: '{x} ${custom_params.of.${WHICH}} \\${ ${SECRET}'
  of: {one: 1}
"""


def test_e13_what_came_from_the_environment_is_saved_as_it_was_written(
    manager: ConfigurationManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.setenv("WHICH", "one")
    (tmp_path / "a.yaml").write_text(
        COMPLETE.read_text()
        .replace('"custom_dataset"', "${SECRET}")
        .replace("dataset_name", "name")
        .replace("experiment_name: ", "name: ${SECRET} #")
        + SECRETS
    )
    expected = manager.load_experiment("a.yaml")
    assert (expected.experiment_name, expected.data.dataset_name) == ("hunter2", "hunter2")
    assert expected.custom_params == {
        "token": "hunter2", "url": "https://me:hunter2@host", "copy": "https://me:hunter2@host/x", "other": "hunter2",
        "text": "hunter2 and ${this}", "path": "C:\\hunter2", "inside": 1, "of": {"one": 1},
        "deeper": 1, "where": "of", "both": "hunter2Xhunter2", "braces": "{x} 1 ${ hunter2",
    }  # fmt: skip
    for number, found in enumerate([
        expected, manager.load_config("a.yaml"), manager.load_config("a.yaml", validate=False),
        manager.compose_configs("a.yaml", None, {"seed": 42}), copy.deepcopy(expected), replace(expected),
    ]):  # fmt: skip
        for form in ("yaml", "json"):
            manager.save_config(found, f"saved{number}.{form}", form)
            assert "hunter2" not in (tmp_path / f"saved{number}.{form}").read_text()
            assert ConfigurationManager(tmp_path).load_experiment(f"saved{number}.{form}") == expected
    ConfigurationManager(tmp_path).save_config(expected, "by another.yaml")
    assert "hunter2" not in (tmp_path / "by another.yaml").read_text()
    another = replace(expected, experiment_name="another", model=replace(expected.model, dropout=0.5))
    manager.save_config(another, "another.yaml")
    assert "hunter2" not in (tmp_path / "another.yaml").read_text()
    assert manager.load_experiment("another.yaml") == another != expected
    expected.custom_params["text"] = "another"
    manager.save_config(expected, "changed.yaml")
    assert manager.load_experiment("changed.yaml") == expected


def test_e13_texts_that_look_like_references_mean_themselves(
    manager: ConfigurationManager, least: dict[str, Any]
) -> None:
    texts = ["${HOME}", "\\${HOME}", "\\\\${HOME}", "${", "${a.b}", "a ${x} \\${y} $z \\", "${oc.env:HOME}", "$(x)"]
    expected = experiment({**least, "custom_params": {"texts": texts}})
    manager.save_config(expected, "a.yaml")
    assert manager.load_experiment("a.yaml") == expected
    manager.save_config(manager.load_config("a.yaml"), "b.yaml")
    assert manager.load_experiment("b.yaml").custom_params == {"texts": texts}
    manager.save_config({"a": "${b}", "b": 1}, "c.yaml")  # written by hand
    assert manager.load_config("c.yaml", validate=False) == {"a": 1, "b": 1}


def test_e12_what_is_in_a_variable_is_no_reference(
    manager: ConfigurationManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "a${b}\\${c")
    (tmp_path / "a.yaml").write_text("a: ${SECRET}\nb: ${a}!\n")
    found = manager.load_config("a.yaml", validate=False)
    assert found == {"a": "a${b}\\${c", "b": "a${b}\\${c!"}


def test_e15_numbers_of_numpy_are_numbers(least: dict[str, Any]) -> None:
    least["optimizer"]["betas"] = (np.float32(0.5), 0)
    least["model"] |= {"hidden_size": 64.0, "num_layers": np.array(3)}
    least["benchmark"] = "False"
    least["training"] |= {"epochs": np.int64(3), "learning_rate": np.float32(0.5)}
    least |= {"deterministic": np.bool_(False), "seed": np.uint32(7)}
    found = experiment(least)
    assert (found.training.epochs, found.training.learning_rate, found.deterministic, found.seed) == (3, 0.5, False, 7)
    assert [type(each) for each in (found.training.epochs, found.training.learning_rate)] == [int, float]
    assert (found.optimizer.betas, found.model.hidden_size, found.model.num_layers) == ((0.5, 0.0), 64, 3)
    assert (type(found.model.hidden_size), found.benchmark) == (int, False)


class Colour(Enum):
    RED = "red"


def test_e13_what_is_saved_is_what_is_loaded(manager: ConfigurationManager, tmp_path: Path) -> None:
    values = {
        "number": 1e-8, "text": "1e-8", "time": "1:30", "pair": (1, 2), "colour": Colour.RED, "path": Path("a/b"),
        "scalar": np.float64(0.5), "yes": "yes", "none": None, "word": "nuß\n",
        "deep": {"of": {"it": [True, {"a": 1}]}},
    }  # fmt: skip
    expected = {**values, "pair": [1, 2], "colour": "red", "path": "a/b", "scalar": 0.5}
    for name, form in (("made/on/the/way.yml", "yaml"), ("a.json", "json")):
        manager.save_config(values, name, form)
        assert manager.load_config(name, validate=False) == expected
        assert "nuß" in (text := (tmp_path / name).read_text("utf-8"))
        assert text.index("time") < text.index("pair") < text.index("colour")  # as they were given
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == expected


def test_e13_what_cannot_be_said_is_refused_by_its_path_and_changes_nothing(
    manager: ConfigurationManager, tmp_path: Path, least: dict[str, Any]
) -> None:
    manager.save_config({"a": 1}, "a.yaml")
    for value, kind in ((lambda: 0, "function"), (CheckpointConfig, "type"), (np.ones(2), "ndarray")):
        with pytest.raises(ConfigurationError, match=rf"^a\.b\[1\] is a {kind}, which no file can say"):
            manager.save_config({"a": {"b": [1, value]}}, "a.yaml")
    with pytest.raises(ConfigurationError, match=r"^data\.preprocessing\.f is a function"):
        manager.save_config(experiment({**least, "data": {"name": "x", "preprocessing": {"f": lambda: 0}}}), "a.yaml")
    with pytest.raises(ConfigurationError, match="a is nan"):
        manager.save_config({"a": float("nan")}, "a.yaml")
    with pytest.raises(ConfigurationError, match="format='toml': use yaml or json"):
        manager.save_config({"a": 1}, "a.toml", "toml")
    with pytest.raises(ConfigurationError, match=r"would not be read as yaml.*format='json'"):
        manager.save_config({"a": 1}, "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
    assert manager.load_config("a.yaml", validate=False) == {"a": 1}


def test_e13_a_write_that_fails_leaves_the_old_file(
    manager: ConfigurationManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.save_config({"a": 1}, "a.yaml")

    def full(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size == len("a: 2\n")  # nothing is left for after that
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        manager.save_config({"a": 2}, "a.yaml")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a: 1\n"]


# -- E14 ---------------------------------------------------------------------------------------------------


def test_e14_base_then_overrides_in_order_then_dotted_paths(manager: ConfigurationManager, tmp_path: Path) -> None:
    base = {"a": {"x": 1, "y": [1, 2, 3]}, "b": 1, "c": None}
    (tmp_path / "over.yaml").write_text("a: {y: [9]}\nb: 2\nref: ${b}\n")
    over = {"b": 3, "c": {"new": 1}}
    found = manager.compose_configs(base, ["over.yaml", over], {"a.x": 7, "d.e.f": [1], "c": {"only": 2}})
    assert found == {"a": {"x": 7, "y": [9]}, "b": 3, "ref": 3, "c": {"only": 2}, "d": {"e": {"f": [1]}}}
    assert base == {"a": {"x": 1, "y": [1, 2, 3]}, "b": 1, "c": None}
    assert over == {"b": 3, "c": {"new": 1}}
    found["a"]["y"].append(1)
    assert manager.compose_configs("over.yaml")["a"]["y"] == [9]


def test_e14_no_overrides_are_none_and_none_is_a_value(manager: ConfigurationManager) -> None:
    base = {"a": {"b": 1}}
    assert manager.compose_configs(base) == manager.compose_configs(base, None, None) == base
    assert manager.compose_configs(base, [], {}) == manager.compose_configs(base, [{}]) == base
    assert manager.compose_configs(base, [{"a": None}]) == {"a": None}
    assert manager.compose_configs(base, None, {"a.b": None}) == {"a": {"b": None}}


def test_e14_what_cannot_be_put_together_is_named(
    manager: ConfigurationManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ConfigurationError, match=r"a\.b\.c cannot be set: a\.b is 1, no section"):
        manager.compose_configs({"a": {"b": 1}}, None, {"a.b.c": 2})
    with pytest.raises(ConfigurationError, match=r"'a\.\.b' is no path"):
        manager.compose_configs({}, None, {"a..b": 2})
    with pytest.raises(ConfigurationError, match=r"^a\.b needs NOWHERE, which is not set"):
        manager.compose_configs({}, None, {"a.b": "${NOWHERE}"})
    with pytest.raises(ConfigurationError, match=r"leads nowhere: (?s:.)*a"):
        manager.compose_configs({"a": "${b}", "b": "${a}"})
    with pytest.raises(ConfigurationError, match="None is no configuration"):
        manager.compose_configs({}, [None])


# -- E15 ---------------------------------------------------------------------------------------------------


def test_e15_all_problems_are_told_at_once_each_by_its_path(least: dict[str, Any]) -> None:
    del least["experiment_name"], least["data"]
    least["model"] |= {"hidden_size": 0, "dropout": 1.0, "dropot": 0.1}
    least["model"]["name"] = " "
    least["training"] |= {"epochs": 1.5, "batch_size": True, "learning_rate": float("nan")}
    least["optimizer"] |= {"betas": [0.9, 1.0], "eps": 0}
    least["slurm"] = {
        "nodes": 0, "mem": "lots", "time_limit": "soon", "gres": "gpu;1", "job_name": "a\nb", "additional_args": ["x"],
    }  # fmt: skip
    least |= {"seed": 2**32, "scheduler": "cosine", "tags": "one", "checkpoint": {"every_seconds": "often"}}
    assert set(problems(least)) == {
        "experiment_name", "data", "model.name", "model.hidden_size", "model.dropout", "model.dropot",
        "training.epochs", "training.batch_size", "training.learning_rate", "optimizer.betas", "optimizer.eps",
        "slurm.nodes", "slurm.mem", "slurm.time_limit", "slurm.gres", "slurm.job_name", "slurm.additional_args", "seed",
        "scheduler", "tags", "checkpoint.every_seconds",
    }  # fmt: skip
    assert issubclass(ValidationError, ConfigurationError)
    assert issubclass(ConfigurationError, AsyncCkptError)


@pytest.mark.parametrize("time", ["60", "60:30", "24:00:00", "1-12", "1-12:30", "1-12:30:00", "UNLIMITED", 60])
def test_e15_times_of_slurm_are_times(least: dict[str, Any], time: object) -> None:
    found = experiment({**least, "slurm": {"time_limit": time}}).slurm
    assert found is not None
    assert found.time_limit == str(time)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_e15_the_ends_of_a_range_are_in_it(least: dict[str, Any], seed: int) -> None:
    assert experiment({**least, "seed": seed}).seed == seed
    assert experiment({**least, "model": {"name": "x", "dropout": 0}}).model.dropout == 0


def test_e15_what_a_value_has_to_be_is_said_with_it(least: dict[str, Any]) -> None:
    least["model"] |= {"name": ["x"], "hidden_size": "many", "num_layers": float("inf"), "num_heads": 2.5}
    least["training"] |= {"epochs": np.ones(2), "learning_rate": "fast", "batch_size": True}
    least["optimizer"] |= {"betas": [0.9], "eps": [1], "weight_decay": 10**400}
    del least["data"]["dataset_name"]
    least |= {"deterministic": 1, "benchmark": "on", "created_by": True, "tags": {"a": 1}, "custom_params": [1]}
    found = problems(least)
    assert found.pop("training.epochs").endswith("it has to be a whole number")
    assert found == {
        "model.name": "is ['x']; it has to be a text",
        "model.hidden_size": "is 'many'; it has to be a whole number",
        "model.num_layers": "is inf; it has to be a whole number",
        "model.num_heads": "is 2.5; it has to be a whole number",
        "training.learning_rate": "is 'fast'; it has to be a number",
        "training.batch_size": "is True; it has to be a number",
        "optimizer.betas": "has 1 values; it has to have 2",
        "optimizer.eps": "is [1]; it has to be a number",
        "optimizer.weight_decay": f"is {10**400}; it has to be a number",
        "data.dataset_name": "is missing",
        "deterministic": "is 1; it has to be true or false",
        "benchmark": "is 'on'; it has to be true or false",
        "created_by": "is True; it has to be a text; YAML takes yes, no, on and off for that: put them in quotes",
        "tags": "is {'a': 1}; it has to be a list",
        "custom_params": "is [1]; it has to be a mapping",
    }


def test_e15_what_is_no_section_is_told_and_options_are_lines(least: dict[str, Any]) -> None:
    least |= {"model": 3, "training": "long", "slurm": {"additional_args": ["--comment=a\nb"]}}
    least["optimizer"]["lr"] = 0.1
    assert problems(least) == {
        "model": "is 3; it has to be a section with fields of its own",
        "training": "is 'long'; it has to be a section with fields of its own",
        "slurm.additional_args": "has '--comment=a\\nb'; each is one option with its value: --account=vision",
    }


# -- aliases (X20, X27) --------------------------------------------------------------------------------------


def test_e45_words_of_others_are_taken_for_ours_with_a_warning(
    least: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    least["checkpoint"] = {
        "max_checkpoints": 5, "keep_best_n": 2, "every_seconds": 90, "save_interval": 10, "minimize_metric": False,
        "save_best": True, "every_n_epochs": 4, "save_every_n_epochs": None,
    }  # fmt: skip
    least["preemption"] = {"max_checkpoint_sec": 30, "requeue_job": False}
    with caplog.at_level(logging.WARNING, "asyncckpt"):
        found = experiment(least)
    assert found.checkpoint.retention() == RetentionPolicy(last=5, best=2, every_epochs=4)
    assert found.checkpoint.save_policy() == SavePolicy(every_steps=10, every_seconds=90, on_best=True)
    assert found.checkpoint.monitored() == ("val_loss", "max")
    assert (found.preemption.timeout_minutes, found.preemption.requeue) == (0.5, False)
    assert "checkpoint.max_checkpoints is called checkpoint.keep_last here" in caplog.text
    assert len(caplog.records) == 9
    assert "max_checkpoints" in least["checkpoint"]
    assert experiment({**least, "checkpoint": {"minimize_metric": True}}).checkpoint.mode == "min"
    assert experiment({**least, "checkpoint": {"keep_every_n_steps": 5, "keep_last": 1}}).checkpoint.retention() == (
        RetentionPolicy(last=1, every_steps=5)
    )


@pytest.mark.parametrize(
    ("path", "words", "value"),
    [
        ("experiment_name", "name", "other"),
        ("model.name", "type", "other"),
        ("training.epochs", "num_epochs max_epochs num_train_epochs", 7),
        ("training.batch_size", "train_batch_size per_device_train_batch_size", 7),
        ("training.learning_rate", "lr optimizer.learning_rate optimizer.lr", 0.7),
        ("training.gradient_accumulation_steps", "grad_accumulation accumulate_grad_batches", 7),
        ("training.max_grad_norm", "gradient_clipping grad_clip clip_grad_norm", 0.7),
        ("data.dataset_name", "name dataset", "other"),
        ("optimizer.name", "type", "other"),
        ("scheduler.name", "type", "other"),
        ("scheduler.warmup_steps", "num_warmup_steps warmup", 7),
        ("slurm.time_limit", "time", "7:00:00"),
        ("slurm.mem", "memory", "7G"),
        ("logging.log_level", "level", "ERROR"),
        ("checkpoint.save_every_n_epochs", "every_epochs save_every_epochs", 7),
        ("checkpoint.save_every_n_steps", "every_steps save_every_steps save_interval", 7),
        ("checkpoint.save_on_best", "on_best save_best save_on_best_metric", True),
        ("checkpoint.save_top_k", "best keep_best keep_best_n", 7),
        ("checkpoint.keep_last", "last keep_last_n max_checkpoints save_total_limit", 7),
        ("checkpoint.keep_every_n_epochs", "keep_every_epochs every_n_epochs", 7),
        ("checkpoint.keep_every_n_steps", "keep_every_steps", 7),
        ("checkpoint.monitor", "metric best_metric monitor_metric", "other"),
        ("checkpoint.checkpoint_dir", "root dir save_dir", "other"),
        ("preemption.requeue", "requeue_job", False),
    ],
)
def test_e45_each_word_of_others_has_its_place(
    least: dict[str, Any], caplog: pytest.LogCaptureFixture, path: str, words: str, value: Any
) -> None:
    section, _, name = path.rpartition(".")
    least["scheduler"] = {"name": "cosine"}
    (least.get(section, {}) if section else least).pop(name, None)
    for word in words.split():
        said = word if "." in word or not section else f"{section}.{word}"
        where, _, alias = said.rpartition(".")
        values = copy.deepcopy(least)
        (values.setdefault(where, {}) if where else values)[alias] = value
        found = experiment(values)
        assert getattr(getattr(found, section) if section else found, name) == value
        assert f": {said} is called {path} here" in caplog.text


def test_e45_words_of_others_are_read_as_ours_are_also_from_the_environment(
    manager: ConfigurationManager, least: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO", "false")
    monkeypatch.setenv("YES", "True")
    monkeypatch.setenv("SECONDS", "90")

    def section(**words: Any) -> CheckpointConfig:
        manager.save_config({**least, "checkpoint": words}, "a.yaml")
        return manager.load_experiment("a.yaml").checkpoint

    found = section(minimize_metric="${NO}", every_seconds="${SECONDS}", interval=5, interval_in_epochs="${NO}")
    assert (found.mode, found.save_every_n_minutes, found.save_every_n_steps) == ("max", 1.5, 5)
    assert section(minimize_metric="${YES}", save_best_only="${NO}").mode == "min"
    assert section(every_seconds=None).save_every_n_minutes is None
    assert section(save_best_only="${YES}").save_policy() == SavePolicy(on_best=True)
    assert section(interval=5, interval_in_epochs="${YES}").save_policy() == SavePolicy(every_epochs=5)
    wrong = {"minimize_metric": "lower", "every_seconds": True, "interval": 5, "interval_in_epochs": 3}
    assert problems({**least, "checkpoint": {**wrong, "save_best_only": "often"}}) == {
        "checkpoint.minimize_metric": "is 'lower'; it has to be true or false",
        "checkpoint.every_seconds": "is True; it has to be a number",
        "checkpoint.interval_in_epochs": "is 3; it has to be true or false",
        "checkpoint.save_on_best": "is 'often'; it has to be true or false",
    }
    assert experiment({**least, "checkpoint": {"every_seconds": np.float32(30)}}).checkpoint.save_every_n_minutes == 0.5


def test_b22_intervals_and_the_best_alone_are_understood(
    least: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """``interval`` counts steps, or epochs with ``interval_in_epochs``; ``save_best_only`` saves no others."""

    def section(**words: Any) -> CheckpointConfig:
        return experiment({**least, "checkpoint": words}).checkpoint

    found = section(interval=5, interval_in_epochs=True, save_total_limit=3, monitor_metric="acc")
    assert found.save_policy() == SavePolicy(every_epochs=5)
    assert (found.retention(), found.monitor) == (RetentionPolicy(last=3), "acc")
    assert section(interval=5, save_every_n_epochs=None).save_policy() == SavePolicy(every_steps=5)
    assert section(save_best_only=True).save_policy() == SavePolicy(on_best=True)
    assert section(save_best_only=False, interval=2).save_policy() == SavePolicy(every_epochs=1, every_steps=2)
    assert "checkpoint.interval is called checkpoint.save_every_n_epochs here" in caplog.text
    problems_of = problems({**least, "checkpoint": {"save_best_only": True, "interval": 5}})
    assert problems_of == {
        "checkpoint.save_best_only": "is True, and checkpoint.save_every_n_steps saves others too; leave one out"
    }
    said = problems({**least, "checkpoint": {"interval": 5, "save_every_n_steps": 6}})
    assert said["checkpoint.interval"].startswith("is 5, and checkpoint.save_every_n_steps")
    assert [*problems({**least, "checkpoint": {"interval_in_epochs": True}})] == ["checkpoint.interval_in_epochs"]


def test_e45_the_learning_rate_has_one_place_and_says_one_thing(
    least: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    least["optimizer"]["lr"] = 0.1
    assert experiment(least).training.learning_rate == 0.1
    assert "optimizer.lr is called training.learning_rate here" in caplog.text
    del least["training"]["learning_rate"]
    assert experiment(least).training.learning_rate == 0.1
    least["training"]["learning_rate"] = 0.2
    assert problems(least) == {
        "optimizer.lr": "is 0.1, and training.learning_rate, which means the same, is 0.2; leave one out"
    }
    del least["training"]
    assert problems(least) == {"training.epochs": "is missing", "training.batch_size": "is missing"}


def test_e45_a_field_that_nobody_knows_is_refused_with_what_may_be_meant(least: dict[str, Any]) -> None:
    found = problems({**least, "checkpiont": {}, "written": {}, "logging": {"cleanup_on_exit": True}})
    assert found["written"].startswith("is no field")
    assert found["checkpiont"] == "is no field; is checkpoint meant?"
    assert found["logging.cleanup_on_exit"].startswith("is no field; there are log_level, ")
    assert found["logging.cleanup_on_exit"].endswith("; what is yours goes into custom_params")


# -- E43, E44 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_e43_a_loader_takes_the_section_with_and_without_workers(least: dict[str, Any], workers: int) -> None:
    section = {"num_workers": workers, "prefetch_factor": 3, "persistent_workers": True, "pin_memory": False}
    loader = DataLoader([1, 2], **experiment({**least, "performance": section}).performance.loader_arguments())
    assert loader.num_workers == workers
    assert (loader.prefetch_factor, loader.persistent_workers) == ((3, True) if workers else (None, False))


def test_e44_deterministic_wins_over_benchmark_with_a_warning(
    least: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    found = experiment({**least, "deterministic": True, "benchmark": True})
    assert (found.deterministic, found.benchmark) == (True, False)
    assert "deterministic and benchmark are both on: benchmark is turned off" in caplog.text
    assert experiment({**least, "deterministic": False, "benchmark": True}).benchmark


def test_e44_a_seed_is_for_the_start_and_not_sown_over_what_was_restored(
    tmp_path: Path, least: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original sowed it after it had restored, and every resumed run drew its first numbers again."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    config = experiment({**least, "seed": 7})

    def sow() -> None:
        set_seed(config.seed, deterministic=config.deterministic)

    def drawn() -> list[float]:
        return [torch.rand(()).item(), random.random(), np.random.rand()]

    with torch.backends.cudnn.flags(deterministic=False, benchmark=True):
        sow()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    first = drawn()
    with AsyncCheckpointer(tmp_path, model=torch.nn.Linear(1, 1)) as ckpt:
        ckpt.save(1).wait()
        expected = drawn()
    sow()
    assert drawn() == first
    with AsyncCheckpointer(tmp_path, model=torch.nn.Linear(1, 1)) as ckpt:
        ckpt.resume()
        sow()
        assert drawn() == expected


@pytest.mark.parametrize(("more", "kept"), [({}, [1, 4, 5]), ({"save_top_k": 2}, [1, 2, 4, 5])])
def test_e45_the_best_outlives_a_limit(
    tmp_path: Path, least: dict[str, Any], more: dict[str, Any], kept: list[int]
) -> None:
    """The original deleted it, and its link to the best led nowhere."""
    section = experiment({**least, "checkpoint": {"max_checkpoints": 2, **more}}).checkpoint
    with AsyncCheckpointer(
        tmp_path, model=torch.nn.Linear(1, 1), keep=section.retention(), monitor=section.monitored()
    ) as ckpt:
        for step in range(1, 6):
            ckpt.save(step, metrics={"val_loss": float(step)}).wait()
        ckpt.wait()
        assert sorted(info.step for info in ckpt.checkpoints()) == kept
        best = ckpt.best()
        assert best is not None
        assert ckpt.restore("best").step == best.step == 1


def test_e45_minutes_are_a_trigger_and_a_model_comes_back_alone(tmp_path: Path, least: dict[str, Any]) -> None:
    section = experiment({**least, "checkpoint": {"save_every_n_minutes": 0.5, "save_every_n_epochs": None}}).checkpoint
    assert [section.save_policy().is_due(1, seconds=seconds) for seconds in (29, 30)] == [False, True]
    models = [torch.nn.Linear(1, 1) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=rate) for model, rate in zip(models, (0.1, 0.2), strict=True)]
    with AsyncCheckpointer(tmp_path, model=models[0], optimizer=optimizers[0]) as ckpt:
        ckpt.save(1).wait()
    with AsyncCheckpointer(tmp_path, model=models[1], optimizer=optimizers[1]) as ckpt:
        ckpt.restore("latest", only=["model"])
    assert torch.equal(models[0].weight, models[1].weight)
    assert optimizers[1].param_groups[0]["lr"] == 0.2


# -- the package ---------------------------------------------------------------------------------------------


def test_a_configuration_is_read_without_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from asyncckpt.launch.config import ConfigurationManager
ConfigurationManager(".").load_experiment({str(COMPLETE)!r})
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=tmp_path, check=True, timeout=60)


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    with pytest.raises(ConfigurationError, match=r"needs OmegaConf .*pip install 'asyncckpt\[launch\]'"):
        ConfigurationManager(tmp_path).load_config(COMPLETE)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigurationError, match=r"needs PyYAML .*pip install 'asyncckpt\[launch\]'"):
        ConfigurationManager(tmp_path).load_config(COMPLETE)


def test_an_experiment_is_made_of_objects_too() -> None:
    assert ExperimentConfig.__dataclass_fields__["experiment_name"].kw_only
