"""What a run was started with is kept (features B3, B4, B7, B14, A3, A4, D6, D25, D26, D29, E4's numbers)."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from asyncckpt import AsyncCheckpointer, Run, keys, load
from asyncckpt.configuration.reading import configuration
from asyncckpt.errors import ConfigurationError, KeyUnavailable
from asyncckpt.format.coded_file import unpacked
from asyncckpt.report import gather
from asyncckpt.run import load_config, save_config_to_json
from asyncckpt.trackers import whole_config

from .conftest import Place

YAML = b"""# as I wrote it\r
name: tiny
training: {epochs: 3, batch_size: 8, learning_rate: 1e-3}
optimizer: {eps: 1e-8, big: 1.5e8, betas: [0.9, 0.999]}
model: {d_model: 64}
"""


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Inner:
    path: PurePosixPath = dataclasses.field(default_factory=lambda: PurePosixPath("/data"))
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass
class Settings:
    inner: list[Inner]
    color: Color = Color.RED
    dtype: torch.dtype = torch.bfloat16
    when: datetime = datetime(2024, 12, 9, tzinfo=UTC)
    names: frozenset[str] = frozenset({"b", "a"})
    rate: Any = dataclasses.field(default_factory=lambda: np.float32(0.5))
    grid: Any = dataclasses.field(default_factory=lambda: np.arange(3))
    nan: float = float("nan")
    infinite: float = float("-inf")
    every: timedelta = timedelta(minutes=1, milliseconds=500)
    salt: bytes = b"\x00\xff"
    of: type = Inner
    api_key: str = "sk-123"
    unset: int = dataclasses.field(init=False)


def config_of(place: Place, key: str = "config.json") -> Any:
    return json.loads(place.read(key) or b"{}").get("config")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_bytes(YAML)
    return path


def test_b3_the_file_is_kept_byte_for_byte(somewhere: Place, source: Path) -> None:
    run = somewhere.open(config=source)
    assert somewhere.read("config.yml") == YAML
    assert run.config["name"] == "tiny"


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("c.json", '{"lr": 0.5}', "config.original.json"),
        ("c.toml", "lr = 0.5", "config.toml"),
        ("c.yml", "lr: 0.5", "config.yml"),
        ("C.YAML", "lr: 0.5", "config.yml"),
    ],
)
def test_b3_every_kind_of_file_is_read(folder: Place, tmp_path: Path, name: str, text: str, key: str) -> None:
    (tmp_path / name).write_text(text)
    run = folder.open(config=tmp_path / name)
    assert run.config == {"lr": 0.5}
    assert (folder.read(key) or b"").decode() == text
    assert config_of(folder) == {"lr": 0.5}


def test_b3_a_missing_file_is_a_warning_and_the_run_goes_on(
    folder: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = folder.open(config=tmp_path / "absent.yml")
    assert run.config == {}
    assert "absent.yml cannot be read" in caplog.text
    assert "config.yml" not in folder.names()


def test_b3_a_changed_file_is_kept_beside_the_first(somewhere: Place, source: Path) -> None:
    somewhere.open(config=source).close()
    somewhere.open(config=source, mode="resume").close()
    assert [key for key in somewhere.names() if key.startswith("config")] == ["config.json", "config.yml"]
    for number in range(2, 12):
        source.write_text(f"lr: {min(number, 10)}{' # as it was, in other words' if number == 11 else ''}")
        somewhere.open(config=source, mode="resume").close()
        assert somewhere.read(f"config-{number}.yml") == source.read_bytes()
        assert config_of(somewhere, f"config-{number}.json") == {"lr": min(number, 10)}
    assert somewhere.read("config.yml") == YAML
    source.write_bytes(YAML)  # back to what there was: nothing new
    somewhere.open(config=source, mode="resume").close()
    assert len([key for key in somewhere.names() if key.startswith("config")]) == 22


def test_b3_a_changed_mapping_is_kept_beside_the_first(folder: Place) -> None:
    folder.open(config={"lr": 1}).close()
    folder.open(config={"lr": 1}, mode="resume").close()
    folder.open(mode="resume").close()
    assert "config-2.json" not in folder.names()
    folder.open(config={"lr": 2}, mode="resume").close()
    assert [config_of(folder, key) for key in ("config.json", "config-2.json")] == [{"lr": 1}, {"lr": 2}]


def test_b4_without_a_configuration_a_run_is_one_all_the_same(folder: Place) -> None:
    run = folder.open()
    assert run.config == {}
    assert config_of(folder) == {}
    assert "config.yml" not in folder.names()


@pytest.mark.parametrize("text", ["a: [1", "\t:", "a: !!python/object:os.system {}"])
def test_b7_what_cannot_be_understood_is_kept_and_said(
    folder: Place, source: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    source.write_text(text)
    assert folder.open(config=source).config == {}
    assert (folder.read("config.yml") or b"").decode() == text
    assert f"nothing in the configuration {source} is understood" in caplog.text


def test_b7_an_empty_file_says_nothing(folder: Place, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    source.write_text("# nothing\n")
    assert folder.open(config=source).config == {}
    assert folder.read("config.yml") == b"# nothing\n"
    (empty := source.with_suffix(".json")).write_text("\n")
    assert folder.open(config=empty, mode="resume").config == {}
    assert caplog.text == "", "it is understood"


SAID: dict[str, str] = {
    "c.yml": """
model: {d_model: 64, "odd": .nan, ends: [.inf, -.inf], limit: 24:00:00, day: 2024-12-09}
optimizer: {lr: 1e-3, eps: 1.5e8, betas: [0.9, 0.999], on: yes}
login: {api_key: [s3cr3t], password: [1234], nested: {token: [[s3cr3t]]}, url: "redis://me:s3cr3t@host/0"}
"redis://me:s3cr3t@host/1": 1
3: empty
nothing:
""",
    "c.toml": """
nothing = []
[model]
odd = nan
ends = [inf, -inf]
limit = 07:32:00
day = 2024-12-09T07:32:00Z
[optimizer]
lr = 1e-3
[login]
api_key = ["s3cr3t"]
password = [1234]
url = "redis://me:s3cr3t@host/0"
[login.nested]
token = [["s3cr3t"]]
""",
    "c.json": """
{"model": {"odd": NaN, "ends": [Infinity, -Infinity]}, "optimizer": {"lr": 1e-3}, "nothing": null,
 "login": {"api_key": ["s3cr3t"], "password": [1234], "nested": {"token": [["s3cr3t"]]},
           "url": "redis://me:s3cr3t@host/0"}}
""",
}


@pytest.mark.parametrize("name", SAID)
def test_b7_a_tracker_and_a_run_say_the_same_of_the_same_file(folder: Place, tmp_path: Path, name: str) -> None:
    """There is one reader, so that 1e-3 is a number for both, a NaN is a text for both, and a secret for neither."""
    (tmp_path / name).write_text(SAID[name])
    run = folder.open(config=tmp_path / name)
    said = whole_config(tmp_path / name)
    assert said == run.masked_config == config_of(folder)
    assert said["optimizer"]["lr"] == 1e-3
    assert (said["model"]["odd"], said["model"]["ends"]) == ("NaN", ["Infinity", "-Infinity"])
    assert said["login"] == {
        "api_key": "***",
        "password": ["***"],
        "nested": {"token": ["***"]},
        "url": "redis://***@host/0",
    }
    assert "s3cr3t" not in json.dumps(said)
    assert run.config["login"]["password"] == [1234]


def test_b7_a_tracker_and_a_run_say_the_same_of_the_same_objects(folder: Place) -> None:
    given = {"of": Settings([Inner()]), "deep": [argparse.Namespace(color=Color.RED)], "f": len}
    assert whole_config(given) == folder.open(config=given).masked_config
    assert whole_config(given)["deep"] == [{"color": "red"}]


@pytest.mark.parametrize("text", ["a: 1\na: 2", "x: {a: 1, a: 1}"])
def test_b7_a_key_that_is_there_twice_is_said(
    folder: Place, source: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    source.write_text(text)
    assert folder.open(config=source).config == whole_config(source) == {}
    assert caplog.text.count("'a' is there twice") == 2


def test_b7_what_a_merge_replaces_is_not_there_twice(source: Path) -> None:
    text = "root: &root {a: 1, b: 1}\ndeep: {base: &base {<<: *root, a: 2}}\nmodel: {<<: *base, b: 3}\n"
    text += "two: {<<: *root, <<: *base}\n"
    source.write_text(text)
    assert configuration(source).problem is None
    assert configuration(source).plain == yaml.safe_load(text)


def test_b7_the_whole_configuration_is_there_and_not_a_few_of_its_numbers(folder: Place, source: Path) -> None:
    run = folder.open(config=source)
    assert set(run.config) == {"name", "training", "optimizer", "model"}
    assert config_of(folder) == run.config


def test_e4_numbers_with_an_exponent_are_numbers(folder: Place, source: Path) -> None:
    config = folder.open(config=source).config
    assert config["optimizer"] == {"eps": 1e-8, "big": 1.5e8, "betas": [0.9, 0.999]}
    assert config["training"]["learning_rate"] == 1e-3


def test_yaml_without_its_reader_names_the_extra_before_anything_is_made(
    folder: Place, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ModuleNotFoundError, match=r"asyncckpt\[yaml\]"):
        folder.open(config=source)
    assert not Path(folder.root).exists()


def test_a3_what_json_has_no_word_for_is_said_in_words(folder: Place) -> None:
    folder.open(config=Settings([Inner(), Inner(sizes=())]))
    assert config_of(folder) == {
        "inner": [{"path": "/data", "sizes": [1, 2]}, {"path": "/data", "sizes": []}],
        "color": "red",
        "dtype": "torch.bfloat16",
        "when": "2024-12-09T00:00:00+00:00",
        "names": ["a", "b"],
        "rate": 0.5,
        "grid": [0, 1, 2],
        "nan": "NaN",
        "infinite": "-Infinity",
        "every": 60.5,
        "salt": "00ff",
        "of": f"{__name__}.Inner",
        "api_key": "***",
        "unset": None,
    }


def test_a3_every_reader_takes_the_file(folder: Place) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    folder.open(config={"nan": float("nan"), "surrogate": "\udcff", "umlaut": "ö", "int": 2**70})
    data = folder.read("config.json") or b""
    found = json.loads(data.decode("utf-8"), parse_constant=refuse)
    assert found["config"] == {"nan": "NaN", "surrogate": "\\udcff", "umlaut": "ö", "int": 2**70}
    assert '\n  "config": {\n    "nan"' in data.decode()  # indented by two


@pytest.mark.parametrize("of", [dict, argparse.Namespace])
def test_a3_namespaces_and_mappings_are_alike(folder: Place, of: Any) -> None:
    assert folder.open(config=of(lr=1, layers=(1, 2))).config == {"lr": 1, "layers": [1, 2]}


def test_a3_what_cannot_be_said_is_named_by_its_path_and_harms_nothing(
    folder: Place, caplog: pytest.LogCaptureFixture
) -> None:
    round_trip: dict[str, Any] = {"lr": 1, "model": {"activation": lambda x: x}}
    round_trip["self"] = round_trip
    folder.open(config=round_trip)
    assert config_of(folder) == {"lr": 1, "model": {"activation": "<builtins.function>"}, "self": "<cycle>"}
    assert "model.activation, self" in caplog.text


def test_a3_the_same_object_twice_is_no_cycle(folder: Place) -> None:
    shared = {"lr": 1}
    folder.open(config={"a": shared, "b": [shared, shared]})
    assert config_of(folder) == {"a": shared, "b": [shared, shared]}


@pytest.mark.parametrize(
    "key",
    [
        *("api_key", "apiKey", "apikey", "WANDB_API_KEY", "hf.token", "hfToken", "secret", "db_password", "DbPassword"),
        *("access-token", "credentials", "key", "ssh key"),
    ],
)
def test_a3_secrets_are_masked(key: str) -> None:
    given, masked = {"deep": [{key: "s3cr3t"}]}, {"deep": [{key: "***"}]}
    assert configuration(given).plain == masked
    assert whole_config(given) == masked  # what trackers show: one rule for both


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pad_token", "<pad>"),
        ("max_tokens", 128),
        ("tokenizer", "bpe"),
        ("monkey", "x"),
        ("sort_key", "step"),
        ("token", 7),
        ("api_key", None),
        ("password", ""),
    ],
)
def test_a3_what_only_looks_like_a_secret_is_not_masked(key: str, value: Any) -> None:
    assert configuration({key: value}).plain == whole_config({key: value}) == {key: value}


def test_a3_a_password_in_an_address_is_masked() -> None:
    given = {"url": "redis://me:s3cr3t@host:6379/0", "bare": "redis://:s3cr3t@host", "other": "https://host/x@y"}
    masked = {"url": "redis://***@host:6379/0", "bare": "redis://***@host", "other": "https://host/x@y"}
    assert configuration(given).plain == whole_config(given) == masked


def test_a3_a_list_of_secrets_and_a_password_of_digits_are_masked() -> None:
    given = {"api_key": ["a", "b"], "password": 123456, "keys": ["loss"], "token": [1, 2], "key": ["k", 1]}
    masked = {**given, "api_key": "***", "password": "***", "key": "***"}
    assert configuration(given).plain == whole_config(given) == masked


def test_a3_no_secret_is_on_disk_unless_it_was_in_the_users_own_file(
    folder: Place, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source.write_text("wandb: {api_key: s3cr3t}")
    run = folder.open(config=source, logs=True)
    assert run.config == {"wandb": {"api_key": "s3cr3t"}}  # the training needs it
    run.close()
    holding = [key for key in folder.names() if b"s3cr3t" in (folder.read(key) or b"")]
    assert holding == ["config.yml"]
    assert "looks like a secret (wandb.api_key)" in caplog.text


def test_a4_what_was_saved_is_what_is_loaded(somewhere: Place, source: Path) -> None:
    run = somewhere.open(config=source)
    found = load_config(somewhere.root, somewhere.options)
    assert found["config"] == run.config
    assert found["run_id"] == run.id


def test_d26_where_nothing_was_saved_there_is_an_empty_one(somewhere: Place) -> None:
    assert load_config(somewhere.root, somewhere.options) == {}
    assert somewhere.names() == []


def test_d25_the_file_says_what_was_trained_on_what_by_which_code(somewhere: Place) -> None:
    class Wave(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.d_model, self.num_layers = 8, 2
            self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(2)])

    run = somewhere.open(config={"lr": 1})
    run.describe(dataset={"name": "tinystories", "tokens": 1000, "path": Path("/data")})
    with AsyncCheckpointer(run, model=torch.nn.DataParallel(Wave())):
        found = load_config(somewhere.root, somewhere.options)
    assert found["model"] == {
        "type": "Wave",
        "num_parameters": 144,
        "num_trainable_parameters": 144,
        "d_model": 8,
        "num_layers": 2,
    }
    assert found["dataset"] == {"name": "tinystories", "tokens": 1000, "path": "/data"}
    assert found["hardware"]["gpu_available"] is torch.cuda.is_available()
    assert found["hardware"]["cpu_count"] > 0
    assert found["hardware"]["memory_bytes"] > 2**20
    assert {"run_id", "timestamp", "git_hash", "git_dirty", "config"} <= set(found)
    assert datetime.fromisoformat(found["timestamp"]).tzinfo is not None


def test_d25_a_machine_with_gpus_says_which_though_none_was_touched(
    folder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771'\necho 'NVIDIA A100, 81920'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def touched(*arguments: object) -> None:
        raise AssertionError("a context on the device is in the way of processes that are forked later")

    monkeypatch.setattr(torch.cuda, "get_device_properties", touched)
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    folder.open()
    found = load_config(folder.root)["hardware"]
    assert (found["gpu_available"], found["gpu_count"], found["gpu_model"]) == (True, 2, "NVIDIA H200")
    assert (found["cuda_version"], found["cuda_visible_devices"]) == ("12.9", "0,1")
    assert found["gpus"] == [
        {"model": "NVIDIA H200", "memory_bytes": 143771 << 20},
        {"model": "NVIDIA A100", "memory_bytes": 81920 << 20},
    ]
    driver.write_text("#!/bin/sh\nexit 9\n")
    with Run.open(f"{folder.root}-2", logs=False):
        found = load_config(f"{folder.root}-2")["hardware"]
    assert (found["gpu_available"], found["gpu_model"], found["gpus"]) == (True, None, [])


def test_d25_where_no_accelerator_is_torch_is_not_asked_which(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> torch.device:
        raise RuntimeError("no accelerator")  # as torch 2.6 answers

    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", asked)
    folder.open()
    found = load_config(folder.root)["hardware"]
    assert (found["torch"], found["gpu_available"], found["accelerator"]) == (torch.__version__, False, None)
    assert "error" not in found


def test_d25_a_driver_that_is_half_there_stops_nothing(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("CUDA driver initialization failed")

    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", broken)
    folder.open()
    found = load_config(folder.root)["hardware"]
    assert found["gpu_available"] is False
    assert "driver initialization failed" in found["error"]
    assert found["cpu_count"] > 0


def test_d25_a_model_says_its_dimensions_through_what_wraps_it_and_of_its_own_configuration(folder: Place) -> None:
    class Configured(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = {"n_embd": 4, "n_layer": 2, "dropout": 0.5, "vocab_size": None}
            self.dim = torch.nn.Linear(2, 2)  # no number, whatever it is called
            self.hidden_size = torch.tensor(8)
            self.n_layer = 3  # what the model itself says comes before its configuration

    run = folder.open(config={"lr": 1})
    assert "model" not in load_config(folder.root), "none was given yet"
    wrapped = torch.compile(torch.nn.DataParallel(Configured()), backend="eager")
    run.describe(model=wrapped, dataset={"name": "x", "api_key": "s3cr3t"})
    found = load_config(folder.root)
    assert found["model"] == {
        "type": "Configured",
        "num_parameters": 6,
        "num_trainable_parameters": 6,
        "n_embd": 4,
        "n_layer": 3,
        "dropout": 0.5,
    }
    assert found["dataset"] == {"name": "x", "api_key": "***"}
    assert found["config"] == {"lr": 1}, "what was there stays"
    run.describe(model={"generator": torch.nn.Linear(1, 1), "critic": torch.nn.Linear(2, 2)})
    assert {name: part["num_parameters"] for name, part in load_config(folder.root)["model"].items()} == {
        "generator": 2,
        "critic": 6,
    }


def test_d29_the_configuration_survives_a_crash_in_the_first_step(train: Any, tmp_path: Path) -> None:
    ended = train("Run.open('run', config={'lr': 1})\nos._exit(9)", check=False)
    assert ended.returncode == 9
    assert load_config(tmp_path / "run")["config"] == {"lr": 1}


def test_d6_a_configuration_of_odd_values_makes_no_checkpoint_unloadable(folder: Place) -> None:
    with folder.open(config=Settings([Inner()])) as run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
        ckpt.save(1).wait()
    with folder.open(mode="resume") as run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert state.step == 1


def test_d6_values_that_no_pickle_is_trusted_with_come_back_from_a_checkpoint_as_what_they_were(folder: Place) -> None:
    """With the original one ``Path`` in the configuration made every checkpoint unloadable, and None was returned."""
    odd = {
        "path": Path("/data/x"),
        "where": PurePosixPath("a/b"),
        "color": Color.RED,
        "scalar": np.float32(0.5),
        "integer": np.int64(7),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "dtype": torch.bfloat16,
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "nested": [{"sizes": (1, 2), 3: {"a", "b"}}],
    }
    held = Held(odd)
    with folder.open() as run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2), extra={"config": held}) as ckpt:
        ckpt.save(1).wait()
    for found in (load(folder.root).state["extra"]["config"], _restored(folder)):
        assert found.keys() == odd.keys()
        assert np.array_equal(found["array"], odd["array"])
        assert found["array"].dtype == odd["array"].dtype
        for name in odd.keys() - {"array"}:
            assert (type(found[name]), found[name]) == (type(odd[name]), odd[name]), name
    (pack,) = Path(folder.root).glob("data/*/*.safetensors")
    assert "model.weight" in load_file(pack), "and the tensors any tool reads"


class Held:
    """A state of anything."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def _restored(place: Place) -> Any:
    held = Held({})
    with AsyncCheckpointer(place.root, model=torch.nn.Linear(2, 2), extra={"config": held}) as ckpt:
        ckpt.resume()
    return held.state


# -- overridden ---------------------------------------------------------------------------------------------


def test_a25_a_command_line_is_put_over_the_configuration_by_dotted_paths(
    somewhere: Place, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    typed = [
        "training.learning_rate=1e-2", "--optimizer.betas=[0.8, 0.9]", "model.d_model=null", "model.act=gelu",
        "model.new.deep=true", 'training.note="3"', "training.url=a=b", "training.epochs=4", "training.epochs=5",
    ]  # fmt: skip
    run = somewhere.open(config=source, overrides=typed)
    assert run.config["training"] == {"epochs": 5, "batch_size": 8, "learning_rate": 1e-2, "note": "3", "url": "a=b"}
    assert run.config["optimizer"] == {"eps": 1e-8, "big": 1.5e8, "betas": [0.8, 0.9]}
    assert run.config["model"] == {"d_model": None, "act": "gelu", "new": {"deep": True}}
    assert config_of(somewhere) == run.config
    assert somewhere.read("config.yml") == YAML
    (said,) = [record.getMessage() for record in caplog.records if "overridden" in record.getMessage()]
    assert said.startswith("model.act, model.new.deep, training.note, training.url: overridden, but not in")


def test_a25_each_start_keeps_what_it_was_told(folder: Place, source: Path) -> None:
    """The file is the same, and what was meant is not."""
    for overrides in (["training.epochs=4"], ["training.epochs=4"], [], ["training.epochs=9"], ["training.epochs=4"]):
        folder.open(config=source, mode="auto", overrides=overrides).close()
    told = [config_of(folder, key)["training"]["epochs"] for key in ("config.json", "config-2.json", "config-3.json")]
    assert told == [4, 3, 9]
    assert "config-4.json" not in folder.names()


def test_a25_values_by_path_are_taken_too_and_secrets_of_a_command_line_are_masked(folder: Place) -> None:
    run = folder.open(config={"lr": 1}, overrides={"wandb.api_key": "s3cr3t", "model.kind": Color.RED})
    assert run.config == {"lr": 1, "wandb": {"api_key": "s3cr3t"}, "model": {"kind": "red"}}
    assert config_of(folder) == {"lr": 1, "wandb": {"api_key": "***"}, "model": {"kind": "red"}}


def test_a25_a_resume_on_the_command_line_is_one(folder: Place, source: Path) -> None:
    folder.open(config=source).close()
    assert folder.open(config=source, overrides=["checkpoint.resume=latest"]).is_resumed


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("training.lr", "'training.lr' overrides nothing: write path=value"),
        ("training..lr=1", "is no path: use names with dots"),
        ("=1", "is no path"),
        ("name.first=1", "name.first cannot be set: name is 'tiny', no section with fields"),
    ],
)
def test_a25_what_cannot_be_put_is_an_error_before_anything_is_made(
    folder: Place, source: Path, typed: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        folder.open(config=source, overrides=[typed])
    assert not Path(folder.root).exists()


# -- stored with a codec ------------------------------------------------------------------------------------


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    keys.forget()
    yield keys.register(keys.generate())
    keys.forget()


CODECS = {"zstd": ".zst", "aes256gcm": ".enc", "zstd+aes256gcm": ".zst.enc"}


@pytest.mark.parametrize("codec", CODECS)
def test_a19_a20_copies_of_the_configuration_are_stored_with_the_codec_of_the_run(
    somewhere: Place, source: Path, key: str, codec: str
) -> None:
    """Compressed, encrypted or both; the same file is kept once, a changed one beside it, and all are read back."""
    source.write_bytes(YAML + b"wandb: {api_key: s3cr3t}\n" + b"# " + b"x" * 10_000)
    suffix, hides = CODECS[codec], "aes256gcm" in codec
    with somewhere.open(config=source, config_codec=codec) as run:
        run.describe(model=torch.nn.Linear(2, 2), dataset={"name": "tiny"})
    somewhere.open(config=source, mode="resume", config_codec=codec).close()
    names = [name for name in somewhere.names() if name.startswith("config")]
    assert names == [f"config.json{suffix}", f"config.yml{suffix}"]
    assert unpacked(somewhere.read(f"config.yml{suffix}") or b"", f"config.yml{suffix}") == source.read_bytes()
    found = load_config(somewhere.root, somewhere.options)
    assert found["config"] == (run.config if hides else run.masked_config)
    assert (found["model"]["num_parameters"], found["dataset"]["name"]) == (6, "tiny")
    if codec != "aes256gcm":
        assert len(somewhere.read(f"config.yml{suffix}") or b"") < 1000
    said = gather(somewhere.root, storage_options=somewhere.options)
    assert said.config["config"] == run.masked_config  # no secret leaves by a report
    assert said.problems == ()
    source.write_text("lr: 2")
    somewhere.open(config=source, mode="resume", config_codec=codec).close()
    assert {f"config-2.json{suffix}", f"config-2.yml{suffix}"} <= {*somewhere.names()}
    somewhere.open(config=source, mode="overwrite").close()
    assert [name for name in somewhere.names() if name.startswith("config")] == ["config.json", "config.yml"]


def test_a20_an_encrypted_configuration_is_nowhere_in_the_clear(
    folder: Place, source: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    source.write_text("wandb: {api_key: s3cr3t}\nprivate_word: confidential\n")
    folder.open(config=source, config_codec="aes256gcm", logs=True).close()
    data = [folder.read(name) or b"" for name in folder.names()]
    assert not [each for each in data if b"s3cr3t" in each or b"confidential" in each]
    assert "looks like a secret" not in caplog.text
    keys.forget()
    with pytest.raises(KeyUnavailable, match=key):
        load_config(folder.root)
    said = gather(folder.root)
    assert said.config == {}
    assert [problem for problem in said.problems if "config.json.enc cannot be read" in problem]
    keys.register(keys.generate())  # another: that this start's is the same cannot be known
    folder.open(config=source, mode="resume", config_codec="aes256gcm").close()
    assert "config-2.json.enc" in folder.names()


def test_a20_without_a_key_or_with_an_unknown_word_nothing_is_made(
    folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    keys.forget()
    with pytest.raises(KeyUnavailable):
        folder.open(config={"lr": 1}, config_codec="aes256gcm")
    with pytest.raises(ValueError, match="config_codec='gzip': use one of zstd, aes256gcm"):
        folder.open(config={"lr": 1}, config_codec="gzip")
    assert not Path(folder.root).exists()


class TestSaveConfigToJson:
    """``save_config_to_json`` of seed A."""

    def test_a3_it_makes_folders_and_writes_what_is_read_back(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "er" / "config.json"
        assert save_config_to_json(Settings([Inner()]), path)
        assert json.loads(path.read_text())["inner"] == [{"path": "/data", "sizes": [1, 2]}]
        assert "sk-123" not in path.read_text()
        assert path.read_text().startswith('{\n  "inner"')

    def test_a3_an_existing_file_survives_a_write_that_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "config.json"
        assert save_config_to_json({"lr": 1}, path)
        before = path.read_bytes()

        def full(*arguments: object, **named: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        assert not save_config_to_json({"lr": 2}, path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
        assert "No space left" in caplog.text

    def test_a5_a_file_in_the_way_is_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").touch()
        assert not save_config_to_json({}, tmp_path / "file" / "config.json")
        assert str(tmp_path / "file") in caplog.text

    def test_a3_a_secret_in_a_list_is_masked_however_it_is_written(self, tmp_path: Path) -> None:
        given = {"api_key": ["s3cr3t"], "deep": {"password": (1234, [5678])}, "names": ["x"]}
        assert save_config_to_json(given, tmp_path / "config.json")
        said = json.loads((tmp_path / "config.json").read_text())
        masked = {"api_key": "***", "deep": {"password": ["***", ["***"]]}, "names": ["x"]}
        assert said == configuration(given).plain == masked

    def test_a3_what_cannot_be_said_is_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert save_config_to_json({"f": len}, tmp_path / "config.json")
        assert "names its type instead: f" in caplog.text


def test_b7_what_leaves_the_process_has_no_secrets(folder: Place) -> None:
    run = folder.open(config={"lr": 1, "api_key": "s3cr3t"})
    assert run.config == {"lr": 1, "api_key": "s3cr3t"}
    assert run.masked_config == {"lr": 1, "api_key": "***"}


def test_a_run_is_given_to_the_tracker_in_full(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", config={"a": {"b": 1}}, logs=False) as run:
        assert run.config == {"a": {"b": 1}}
    assert logging.getLogger().level == logging.WARNING
