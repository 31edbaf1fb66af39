"""What a run was started with is kept (features B3, B4, B7, B14, A3, A4, D6, D25, D26, D29, E4's numbers)."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from asyncckpt import AsyncCheckpointer, Run
from asyncckpt.run import load_config, save_config_to_json
from asyncckpt.run.configuration import configuration
from asyncckpt.run.plain import is_secret

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
    api_key: str = "sk-123"


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
        source.write_text(f"lr: {number}")
        somewhere.open(config=source, mode="resume").close()
        assert somewhere.read(f"config-{number}.yml") == source.read_bytes()
        assert config_of(somewhere, f"config-{number}.json") == {"lr": number}
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
    assert "nothing in it is understood" in caplog.text


def test_b7_an_empty_file_says_nothing(folder: Place, source: Path) -> None:
    source.write_text("# nothing\n")
    assert folder.open(config=source).config == {}
    assert folder.read("config.yml") == b"# nothing\n"


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
        "api_key": "***",
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
    "key", ["api_key", "apiKey", "WANDB_API_KEY", "hf.token", "secret", "db_password", "access-token", "credentials"]
)
def test_a3_secrets_are_masked(key: str) -> None:
    assert is_secret(key)
    assert configuration({"deep": [{key: "s3cr3t"}]}).plain == {"deep": [{key: "***"}]}


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
    assert configuration({key: value}).plain == {key: value}


def test_a3_a_password_in_an_address_is_masked() -> None:
    found = configuration({"url": "redis://me:s3cr3t@host:6379/0", "other": "https://host/x@y"})
    assert found.plain == {"url": "redis://***@host:6379/0", "other": "https://host/x@y"}


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
