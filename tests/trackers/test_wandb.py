"""A8, A25, B7: what W&B is told, by the stand-in's account and, in offline mode, by the real package's."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.errors import TransientError
from asyncckpt.events import Durable, PreemptionNoticed, Resumed
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.trackers import Trackers, WandbTracker, pause, whole_config, with_sweep
from asyncckpt.trackers.lane import _Item

from . import offline
from .stub import Meeting, Run, Wandb


def begun(wandb: Wandb) -> Run:
    (run,) = wandb.begun
    return run


def settled(trackers: Trackers) -> None:
    """Once the tracker has taken all."""
    done = threading.Event()
    for lane in trackers._lanes:
        lane._pass_on(_Item("row", done.set))
    assert done.wait(60)


def test_metrics_say_their_step_themselves_and_are_defined_over_it(wandb: Wandb) -> None:
    with Trackers(WandbTracker("run_001")) as trackers:
        trackers.log(1000, {"loss": 0.5, "none": None})
        trackers.log(5, {"loss": math.nan})
    run = begun(wandb)
    assert run.rows[0] == {"loss": 0.5, "asyncckpt/step": 1000}
    assert run.rows[1]["asyncckpt/step"] == 5
    assert run.defined == {"asyncckpt/step": None, "loss": "asyncckpt/step"}
    assert run.finished == 1


def test_the_run_is_resumed_under_the_id_it_had(wandb: Wandb, tmp_path: Path) -> None:
    for _ in range(2):
        with Trackers(WandbTracker("wave/7", name="wave", folder=tmp_path, tags=("a",))) as trackers:
            trackers.log(1, {"loss": 0.5})
    first, second = (run.arguments for run in wandb.begun)
    assert first == second
    assert (first["resume"], first["name"], first["dir"], first["tags"]) == ("allow", "wave", str(tmp_path), ("a",))
    assert first["id"].startswith("wave-7-")


def test_A8_what_the_environment_says_comes_first(wandb: Wandb, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {
        "name": "ours", "project": "ours", "entity": "ours", "group": "ours", "tags": ("ours",), "folder": "ours",
    }  # fmt: skip
    variables = {
        "id": "RUN_ID", "name": "NAME", "project": "PROJECT", "entity": "ENTITY", "group": "RUN_GROUP", "tags": "TAGS",
        "dir": "DIR", "resume": "RESUME",
    }  # fmt: skip
    Trackers(WandbTracker("run_001", **given)).close()
    assert {*begun(wandb).arguments} == {*variables, "settings"}
    for word, variable in variables.items():
        with monkeypatch.context() as environment:
            environment.setenv(f"WANDB_{variable}", "theirs")
            Trackers(WandbTracker("run_001", **given)).close()
        assert {*wandb.begun[-1].arguments} == {*variables, "settings"} - {word}, word
        with monkeypatch.context() as environment:
            environment.setenv(f"WANDB_{variable}", "")  # says nothing
            Trackers(WandbTracker("run_001", **given)).close()
        assert word in wandb.begun[-1].arguments
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    Trackers(WandbTracker("run_001")).close()
    assert "settings" not in wandb.begun[-1].arguments


def test_a_run_that_is_active_is_joined_and_left_open(wandb: Wandb) -> None:
    theirs = wandb.init(id="theirs", config={"own": 1})
    with Trackers(WandbTracker("run_001"), config={"lr": 0.1}) as trackers:
        trackers.log(1, {"loss": 0.5})
    assert (len(wandb.begun), theirs.finished) == (1, 0)
    assert theirs.rows == [{"loss": 0.5, "asyncckpt/step": 1}]
    assert theirs.config == {"own": 1, "lr": 0.1}


def test_A10_trackers_beside_each_other_have_a_run_each_also_where_they_begin_at_once(wandb: Wandb) -> None:
    """W&B gives whoever begins a second run the one that is under way, and both would be one there."""
    wandb.gate = Meeting()
    names = ("one", "two")
    both = [Trackers(WandbTracker(name)) for name in names]
    for trackers, loss in zip(both, (1.0, 2.0), strict=True):
        trackers.log(1, {"loss": loss})
        settled(trackers)
    assert wandb.run is not None
    first, second = both if wandb.run.id == "one" else reversed(both)
    assert first.close(60)
    assert wandb.run is None, "the other is under way, and W&B does not call it active"
    with Trackers(WandbTracker("three")) as third:
        third.log(1, {"loss": 3.0})
    assert second.close(60)
    told = {run.id: [row["loss"] for row in run.rows] for run in wandb.begun}
    assert told == {"one": [1.0], "two": [2.0], "three": [3.0]}
    assert [run.finished for run in wandb.begun] == [1, 1, 1]
    Trackers(WandbTracker("four")).close()
    assert wandb.begun[-1].arguments.get("reinit") is None, "none is under way any more"


def test_A10_two_trackers_of_one_run_are_one_there(wandb: Wandb) -> None:
    with Trackers(WandbTracker("same")) as trackers:
        trackers.log(1, {"loss": 1.0})
        settled(trackers)
        with Trackers(WandbTracker("same")) as others:
            others.log(1, {"accuracy": 0.5})
    assert len(wandb.begun) == 1
    assert [sorted(row) for row in begun(wandb).rows] == [["asyncckpt/step", "loss"], ["accuracy", "asyncckpt/step"]]
    assert begun(wandb).finished == 1


def test_A8_without_a_key_it_is_left_out_with_one_line(wandb: Wandb, caplog: pytest.LogCaptureFixture) -> None:
    wandb.has_key = False
    with Trackers(WandbTracker("run_001")) as trackers:
        for step in range(100):
            trackers.log(step, {"loss": 0.5})
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("wandb is not used: W&B has no API key")
    assert trackers.status["wandb"].lost == 100


def test_without_the_package_it_is_left_out_and_the_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    Trackers(WandbTracker("run_001")).close()
    assert "pip install 'asyncckpt[wandb]'" in caplog.text


def test_while_it_hangs_in_its_beginning_training_goes_on_and_nothing_is_lost(wandb: Wandb) -> None:
    wandb.gate = threading.Event()
    trackers = Trackers(WandbTracker("run_001"))
    for step in range(500):
        trackers.log(step, {"loss": 0.5})
    assert trackers.status["wandb"].state == "starting"
    wandb.gate.set()
    assert trackers.close(60)
    assert [row["asyncckpt/step"] for row in begun(wandb).rows] == list(range(500))


class Saved:
    """A training in `store` that trackers of it hear of."""

    def __init__(self, store: Any, wandb: Wandb, root: Any = None) -> None:
        self.trackers = Trackers(WandbTracker("run_001", root=store if root is None else root))
        self.ckpt = AsyncCheckpointer(
            store, model=torch.nn.Linear(2, 2), monitor=("loss", "min"), listeners=[self.trackers]
        )
        self.wandb = wandb

    def save(self, step: int, loss: float) -> None:
        self.ckpt.save(step, metrics={"loss": loss}).wait()
        self.settle()

    def settle(self) -> None:
        """Until the tracker has taken all."""
        self.ckpt.wait()
        settled(self.trackers)

    def aliases(self) -> list[tuple[int, list[str]]]:
        return [(artifact.metadata["step"], aliases) for artifact, aliases in begun(self.wandb).artifacts]

    def close(self) -> None:
        self.ckpt.close()
        assert self.trackers.close(60)


def test_A25_each_durable_checkpoint_is_a_reference_with_aliases(wandb: Wandb, tmp_path: Path) -> None:
    saved = Saved(tmp_path / "run", wandb)
    saved.save(10, 0.5)
    saved.save(20, 0.9)
    assert saved.aliases() == [(10, ["step-10", "latest", "best"]), (20, ["step-20", "latest"])]
    saved.save(30, 0.1)
    assert saved.aliases()[-1] == (30, ["step-30", "latest", "best"])
    saved.close()
    artifact = begun(wandb).artifacts[0][0]
    assert (artifact.name, artifact.kind) == ("run_001-checkpoint", "checkpoint")
    assert artifact.metadata["metrics"] == {"loss": 0.5}
    ((url, name),) = artifact.references
    assert name == "manifest.json"
    manifest = json.loads(Path(url.removeprefix("file://")).read_bytes())
    assert manifest["step"] == 10
    took = [row for row in begun(wandb).rows if "asyncckpt/save_seconds" in row]
    assert [row["asyncckpt/step"] for row in took] == [10, 20, 30]


def test_A25_late_metrics_move_the_alias_best_and_leave_latest_where_it_is(wandb: Wandb) -> None:
    saved = Saved(MemoryStorage("late"), wandb)
    saved.save(10, 0.5)
    saved.save(20, 0.9)
    saved.ckpt.record(10, {"loss": 0.95})
    saved.settle()
    assert saved.aliases()[2:] == [(20, ["step-20", "latest", "best"])]
    saved.ckpt.record(10, {"loss": 0.05})
    saved.settle()
    assert saved.aliases()[3:] == [(10, ["step-10", "best"]), (20, ["step-20", "latest"])]
    saved.close()


def test_A25_what_could_not_be_sent_is_sent_with_the_next_row(wandb: Wandb, caplog: pytest.LogCaptureFixture) -> None:
    store = GatedStorage(MemoryStorage("away"))
    saved = Saved(MemoryStorage("there"), wandb, root=store)
    saved.trackers.log(1, {"loss": 0.5})
    store.fail("list", "*", lambda: TransientError(110, "no answer"))
    store.fail("get", "*", lambda: TransientError(110, "no answer"))
    saved.save(10, 0.5)
    assert saved.aliases() == []
    store.heal()
    store.release()
    saved.close()
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("wandb")]
    assert said == ["wandb did not take a Durable: [Errno 110] no answer; training goes on"]


class Moved:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Refusing:
    """W&B's artifacts, of which some are refused."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[str]] = []
        self.is_refused: Callable[[list[str]], bool] = lambda aliases: True
        take = run.log_artifact

        def log_artifact(artifact: Any, aliases: list[str]) -> None:
            self.asked.append(aliases)
            if self.is_refused(aliases):
                raise ConnectionError("503")
            take(artifact, aliases)

        monkeypatch.setattr(run, "log_artifact", log_artifact)


def test_A25_an_artifact_that_W_and_B_refuses_is_tried_again_after_longer_and_longer(
    wandb: Wandb, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Moved()
    monkeypatch.setattr(pause, "SYSTEM_CLOCK", clock)
    saved = Saved(MemoryStorage("refused"), wandb)
    saved.settle()
    refusing = Refusing(begun(wandb), monkeypatch)

    def passed(seconds: float) -> int:
        """How often it was tried so much later, with two rows and a late metric."""
        before = len(refusing.asked)
        clock.now += seconds
        for _ in range(2):
            saved.trackers.log(11, {"loss": 0.5})
        saved.ckpt.record(10, {"loss": 0.5})
        saved.settle()
        return len(refusing.asked) - before

    saved.save(10, 0.5)
    assert len(refusing.asked) == 1
    assert [passed(seconds) for seconds in (0, 0.875, 0.125, 1.875, 0.125, 3.875, 0.125)] == [0, 0, 1, 0, 1, 0, 1]
    for _ in range(10):
        passed(300)
    assert (passed(299), passed(1)) == (0, 1), "five minutes at most"
    rows = [row for row in begun(wandb).rows if "loss" in row]
    assert len(rows) == 2 * 19, "rows are sent meanwhile"
    assert len([record for record in caplog.records if record.getMessage().startswith("wandb")]) == 1
    assert saved.trackers.status["wandb"].failed == 1, "the first in a row is counted, not each time that it is tried"
    refusing.is_refused = lambda aliases: False
    assert passed(1) == 0
    assert passed(299) == 1
    assert saved.aliases() == [(10, ["step-10", "latest", "best"])]
    refusing.is_refused = lambda aliases: True
    saved.save(20, 0.9)
    assert (passed(0.875), passed(0.125)) == (0, 1), "a second again"
    refusing.is_refused = lambda aliases: False
    saved.close()
    assert saved.aliases()[1:] == [(20, ["step-20", "latest"])], "and once more at the end, whatever the time"


def test_A25_what_W_and_B_refuses_to_the_end_is_said(
    wandb: Wandb, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pause, "SYSTEM_CLOCK", Moved())
    saved = Saved(MemoryStorage("refused to the end"), wandb)
    saved.settle()
    refusing = Refusing(begun(wandb), monkeypatch)
    saved.save(10, 0.5)
    saved.close()
    assert len(refusing.asked) == 2
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("wandb")]
    assert said == ["wandb did not take a Durable: 503; training goes on", "wandb did not end well: 503"]
    assert begun(wandb).finished == 1


@pytest.mark.parametrize("refused", ["best", "latest"])
def test_A25_no_alias_is_forgotten_whichever_is_refused(
    wandb: Wandb, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """That the best is another is told with two artifacts, of which either may fail."""
    clock = Moved()
    monkeypatch.setattr(pause, "SYSTEM_CLOCK", clock)
    saved = Saved(MemoryStorage("forgotten"), wandb)
    saved.save(10, 0.5)
    saved.save(20, 0.1)
    refusing = Refusing(begun(wandb), monkeypatch)
    refusing.is_refused = lambda aliases: refused in aliases
    saved.ckpt.record(20, {"loss": 0.9})
    saved.settle()
    refusing.is_refused = lambda aliases: False
    clock.now += 1
    saved.trackers.log(21, {"loss": 0.5})
    saved.settle()
    aliases = saved.aliases()[2:]
    assert (10, ["step-10", "best"]) in aliases
    assert aliases[-1] == (20, ["step-20", "latest"])
    saved.close()
    assert saved.aliases()[2:] == aliases, "nothing is due any more"


def test_a_partial_checkpoint_is_no_artifact(wandb: Wandb) -> None:
    with Trackers(WandbTracker("run_001", root=MemoryStorage("none"))) as trackers:
        trackers.on_event(Durable(3, 1, 10, 0.1, 0.0, partial=("optimizer",)))
    assert begun(wandb).artifacts == []


def test_a_resume_and_a_notice_are_told(wandb: Wandb) -> None:
    with Trackers(WandbTracker("run_001")) as trackers:
        trackers.on_event(Resumed(500, 3, 0.0))
        trackers.on_event(PreemptionNoticed(600, "SIGTERM", 30.0))
    assert begun(wandb).summary == {"asyncckpt/resumed_step": 500}
    assert begun(wandb).preempting == 1


class Kind(Enum):
    ADAM = 1


@dataclass
class Optimizer:
    kind: Kind
    lr: float
    path: Path


YAML = """\
model: {d_model: 512, layers: [1, 2]}
dataset: {name: speech, token: hf_abc}
training: {epochs: 3, optimizer: {type: adamw, lr: 0.1}}
"""


def test_B7_the_whole_file_is_the_configuration(wandb: Wandb, tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(YAML)
    Trackers(WandbTracker("run_001"), config=whole_config(tmp_path / "config.yml")).close()
    assert begun(wandb).config == {
        "model": {"d_model": 512, "layers": [1, 2]},
        "dataset": {"name": "speech", "token": "***"},
        "training": {"epochs": 3, "optimizer": {"type": "adamw", "lr": 0.1}},
    }


@pytest.mark.parametrize("text", [None, "a: [", "\xff"], ids=["absent", "bad", "no text"])
def test_B7_a_file_that_cannot_be_read_is_a_warning_and_a_part_of_what_was_parsed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "config.yml").write_bytes(text.encode("latin-1"))
    parsed = {
        "model": {"d_model": 512},
        "training": {
            "epochs": 3, "batch_size": 8, "optimizer": {"type": "adamw", "lr": 0.1, "weight_decay": 0.01},
            "scheduler": {"type": Path("cosine"), "warmup_steps": 10}, "mixed_precision": "bf16",
            "gradient_accumulation_steps": 2, "gradient_clipping": 1.0, "other": 1,
        },
    }  # fmt: skip
    assert whole_config(tmp_path / "config.yml", fallback=parsed) == {
        "training.epochs": 3, "training.batch_size": 8, "training.optimizer.type": "adamw",
        "training.optimizer.lr": 0.1, "training.optimizer.weight_decay": 0.01, "training.scheduler.type": "cosine",
        "training.scheduler.warmup_steps": 10, "training.mixed_precision": "bf16",
        "training.gradient_accumulation_steps": 2, "training.gradient_clipping": 1.0,
    }  # fmt: skip
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path / "config.yml") in record.getMessage()


def test_B7_where_no_reader_of_yaml_is_installed_the_warning_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.yml").write_text(YAML)
    monkeypatch.setitem(sys.modules, "yaml", None)
    parsed = {"training": {"epochs": 3, "type": "t", "token": "s3cr3t"}}
    assert whole_config(tmp_path / "config.yml", fallback=parsed) == {"training.epochs": 3, "training.type": "t"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "pip install 'asyncckpt[yaml]': trackers are told a part of it" in record.getMessage()


def test_B7_an_empty_file_is_an_empty_configuration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.yml").write_text("# nothing\n")
    assert whole_config(tmp_path / "config.yml", fallback={"epochs": 3}) == {}
    assert caplog.records == []


def test_B7_values_become_plain_and_secrets_are_masked(tmp_path: Path) -> None:
    given = {
        "optimizer": Optimizer(Kind.ADAM, 0.1, Path("a/b")),
        "dtype": torch.bfloat16,
        "rate": torch.tensor(0.5),
        "shape": (1, {2}),
        "api_key": "k", "apiKey": "k", "hf_token": "t", "aws_secret": "s", "DB_PASSWORD": "p", "s3.access_key": "a",
        "nested": [{"password": "p", "keyboard": "us", "max_tokens": 5, "tokenizer": "bpe", "eos_token": "</s>"}],
        "url": "https://user:pass@host/x", "monitor": {"key": "val_loss"}, 3: None,
    }  # fmt: skip
    shown = whole_config(given)
    assert json.loads(json.dumps(shown)) == shown == {
        "optimizer": {"kind": 1, "lr": 0.1, "path": str(Path("a/b"))},
        "dtype": "torch.bfloat16",
        "rate": 0.5,
        "shape": [1, [2]],
        "api_key": "***", "apiKey": "***", "hf_token": "***", "aws_secret": "***", "DB_PASSWORD": "***",
        "s3.access_key": "***",
        "nested": [{"password": "***", "keyboard": "us", "max_tokens": 5, "tokenizer": "bpe", "eos_token": "</s>"}],
        "url": "https://***@host/x", "monitor": {"key": "***"}, "3": None,
    }  # fmt: skip


CONFIG = {"optimizer": {"lr": 0.1, "betas": [0.9]}, "model": {"depth": 2, "drop": {"rate": 0.0}}, "seed": 1}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"optimizer.lr": 0.2}, {"optimizer": {"lr": 0.2, "betas": [0.9]}}),
        ({"optimizer/lr": 0.2}, {"optimizer": {"lr": 0.2, "betas": [0.9]}}),
        ({"lr": 0.2}, {"optimizer": {"lr": 0.2, "betas": [0.9]}}),
        ({"optimizer": {"lr": 0.2}}, {"optimizer": {"lr": 0.2, "betas": [0.9]}}),
        ({"rate": 0.5}, {"model": {"depth": 2, "drop": {"rate": 0.5}}}),
        ({"seed": 7, "new": 1}, {"seed": 7, "new": 1}),
        ({"data.workers": 4}, {"data": {"workers": 4}}),
        ({}, {}),
    ],
)
def test_A25b_a_sweeps_parameters_find_their_places(chosen: dict[str, Any], expected: dict[str, Any]) -> None:
    before = json.dumps(CONFIG)
    assert with_sweep(CONFIG, chosen) == {**CONFIG, **expected}
    assert json.dumps(CONFIG) == before


def test_A25b_a_parameter_that_may_mean_two_places_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'lr' may be any of a\.lr, b\.lr"):
        with_sweep({"a": {"lr": 1}, "b": {"lr": 2}}, {"lr": 3})
    with pytest.raises(ValueError, match="leads through 'a'"):
        with_sweep({"a": 1}, {"a.b": 3})


def test_A25b_only_a_run_of_a_sweep_overrides(wandb: Wandb, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_sweep(CONFIG) == CONFIG
    wandb.init(id="plain", config={"lr": 9})
    assert with_sweep(CONFIG) == CONFIG
    assert wandb.run is not None
    wandb.run.finish()
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    run = wandb.init(id="swept", config={"lr": 9, "_wandb": {}})
    assert with_sweep(CONFIG)["optimizer"] == {"lr": 9, "betas": [0.9]}
    Trackers(WandbTracker("run_001"), config=CONFIG).close()
    assert run.config["optimizer"]["lr"] == 9
    assert run.config["lr"] == 9


REAL = """
import sys
from pathlib import Path
import torch
from asyncckpt import AsyncCheckpointer
from asyncckpt.trackers import Trackers, WandbTracker, initialize_wandb, with_sweep
folder = Path(sys.argv[1])
config = {"model": {"d": [1, 2]}, "optimizer": {"lr": 0.1}, "api_key": "k"}
if sys.argv[2] == "joined":
    assert initialize_wandb("run 1", folder)
    config = with_sweep(config)
trackers = Trackers(WandbTracker("run 1", folder=folder, root=folder / "run"), config=config)
model = torch.nn.Linear(2, 2)
with AsyncCheckpointer(folder / "run", model=model, monitor=("loss", "min"), listeners=[trackers]) as ckpt:
    state = ckpt.resume()
    first = state.step + 1 if state else 1
    for step in range(first, first + 3):
        trackers.log(step, {"loss": 1 / step, "nothing": None})
    ckpt.save(step, metrics={"loss": 1 / step}).wait()
assert trackers.close(120), trackers.status
assert trackers.status["wandb"].failed == trackers.status["wandb"].lost == 0, trackers.status
print(config["optimizer"]["lr"])
"""


def real(folder: Path, how: str = "own", **environment: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("wandb")
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", REAL, folder, how],
        env={**os.environ, "WANDB_SILENT": "true", "WANDB_MODE": "offline", "HOME": str(folder), **environment},
        check=False, timeout=240, capture_output=True, text=True,
    )  # fmt: skip


def test_the_real_package_offline_is_told_all_and_keeps_its_id(tmp_path: Path) -> None:
    for _ in range(2):
        done = real(tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = offline.records(tmp_path)
    runs = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert runs[0].run_id.startswith("run-1-")
    assert {run.project for run in runs} == {"asyncckpt"}
    told = [(row["asyncckpt/step"], row["loss"]) for row in offline.rows(found) if "loss" in row]
    assert told == [(step, 1 / step) for step in range(1, 7)]
    assert {key: value for key, value in offline.config(found).items() if key != "_wandb"} == {
        "model": {"d": [1, 2]}, "optimizer": {"lr": 0.1}, "api_key": "***",
    }  # fmt: skip
    metrics = [record.metric for record in found if record.WhichOneof("record_type") == "metric"]
    assert {(metric.name, metric.step_metric) for metric in metrics} >= {
        ("asyncckpt/step", ""), ("loss", "asyncckpt/step"), ("asyncckpt/save_seconds", "asyncckpt/step"),
    }  # fmt: skip
    artifacts = offline.artifacts(found)
    assert [sorted(artifact.aliases) for artifact in artifacts] == [
        ["best", "latest", "step-3"], ["best", "latest", "step-6"],
    ]  # fmt: skip
    (entry,) = artifacts[0].manifest.contents
    assert Path(entry.ref.removeprefix("file://")).is_relative_to(tmp_path / "run/data")


def test_A25b_the_real_package_in_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "chosen.yaml").write_text("wandb_version: 1\nlr:\n  value: 0.7\n")
    swept = {
        "WANDB_SWEEP_ID": "s1",
        "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "chosen.yaml"),
        "WANDB_RUN_ID": "of-sweep",
    }
    done = real(tmp_path, "joined", **swept)
    assert (done.returncode, done.stdout) == (0, "0.7\n"), done.stderr
    shown = offline.config(offline.records(tmp_path))
    assert (shown["lr"], shown["optimizer"]) == (0.7, {"lr": 0.7})


def test_the_real_package_and_a_server_that_never_answers(tmp_path: Path) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        script = (
            "import sys; from asyncckpt.trackers import Trackers, WandbTracker, initialize_wandb\n"
            "assert initialize_wandb('run_001', sys.argv[1], timeout=1) is False\n"
            "trackers = Trackers(WandbTracker('run_001', folder=sys.argv[1]))\n"
            "for step in range(1000): trackers.log(step, {'loss': 1.0})\n"
            "assert trackers.close(timeout=1) is False\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path],
            env={**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path)},
            check=False, timeout=120, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no answer within 1 s" in done.stderr
    assert "wandb has not ended" in done.stderr


def test_saving_by_policy_never_waits_for_it(wandb: Wandb) -> None:
    wandb.gate = threading.Event()
    trackers = Trackers(WandbTracker("run_001"))
    with AsyncCheckpointer(
        MemoryStorage("hung"), model=torch.nn.Linear(2, 2), save=SavePolicy(every_steps=1), listeners=[trackers]
    ) as ckpt:
        for step in range(1, 4):
            ckpt.step(step, metrics={"loss": 1.0})
        ckpt.wait()
    assert wandb.begun == []
    wandb.gate.set()
    assert trackers.close(60)
    assert begun(wandb).rows[-1]["asyncckpt/step"] == 3
