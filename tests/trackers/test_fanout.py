"""A18, B9: several trackers at once, none of which can harm the training or another."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy, SavePolicy
from asyncckpt.events import Durable, Event, Pruned, Resumed, Staged
from asyncckpt.metrics_log import read_checkpoints, read_metrics
from asyncckpt.trackers import ConsoleTracker, JsonLinesTracker, TensorBoardTracker, Trackers, WandbTracker, lane
from asyncckpt.trackers.lane import WAITING

from .stub import Wandb

PATIENCE = 60.0
ROOT = Path(__file__).parents[2]


class Notes:
    """A tracker that notes what it is told, and fails or waits where it shall."""

    is_immediate = False

    def __init__(self, name: str = "notes") -> None:
        self.name = name
        self.told: list[Any] = []
        self.threads: set[threading.Thread] = set()
        self.fails: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.heard = threading.Event()

    def _tell(self, what: str, value: object) -> None:
        self.reached.set()
        self.gate.wait()
        self.threads.add(threading.current_thread())
        if what in self.fails:
            raise ConnectionError(f"no {what}\nand a traceback")
        self.told.append((what, value))

    def open(self, config: Mapping[str, Any]) -> None:
        self._tell("open", dict(config))

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._tell("log", (step, dict(metrics)))

    def on_event(self, event: Event) -> None:
        self._tell("event", event)
        self.heard.set()

    def close(self) -> None:
        self._tell("close", None)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_A18_every_tracker_is_told_everything_in_order_and_off_the_training_thread() -> None:
    one, two = Notes("one"), Notes("two")
    with Trackers(one, two, config={"lr": 0.1}) as trackers:
        trackers.log(1, {"loss": torch.tensor(0.5)})
        trackers.on_event(Resumed(1, 1, 0.0))
        trackers.on_event(Staged(1, 2, 0.1))
        trackers.log(2, {"loss": 0.25})
    for notes in (one, two):
        assert notes.told == [
            ("open", {"lr": 0.1}),
            ("log", (1, {"loss": 0.5})),
            ("event", Resumed(1, 1, 0.0)),
            ("log", (2, {"loss": 0.25})),
            ("close", None),
        ]
    assert len(one.threads | two.threads) == 2
    assert threading.main_thread() not in one.threads | two.threads
    assert not any(thread.is_alive() for thread in one.threads | two.threads)


def test_A18_no_tracker_is_told_a_secret_nor_harms_what_the_training_has() -> None:
    notes, config = Notes(), {"api_key": "s3cr3t", "model": {"d": 8}}
    Trackers(notes, config=config).close()
    ((_, told), _) = notes.told
    assert told == {"api_key": "***", "model": {"d": 8}}
    told["model"]["d"] = 9
    assert config == {"api_key": "s3cr3t", "model": {"d": 8}}


@pytest.mark.parametrize("what", ["open", "log", "event", "close"])
def test_A18_one_that_fails_is_said_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture, what: str) -> None:
    bad, good = Notes("bad"), Notes("good")
    bad.fails.add(what)
    with Trackers(bad, good) as trackers:
        for step in range(5):
            trackers.log(step, {"loss": 1.0})
            trackers.on_event(Resumed(step, 1, 0.0))
    assert len(good.told) == 12
    assert all(line.startswith("bad ") and "a traceback" not in line for line in said(caplog))
    assert len(said(caplog)) == 1


def test_A18_an_outage_is_one_line_and_is_over_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    notes.fails.add("log")
    trackers = Trackers(notes)
    for step in range(50):
        trackers.log(step, {"loss": 1.0})
    trackers.on_event(Resumed(49, 1, 0.0))
    assert notes.heard.wait(PATIENCE)
    notes.fails.clear()
    trackers.log(50, {"loss": 1.0})
    assert trackers.close(PATIENCE)
    assert notes.told[-2:] == [("log", (50, {"loss": 1.0})), ("close", None)]
    assert said(caplog) == ["notes did not take a row: no log; training goes on"]
    assert trackers.status["notes"].state == "closed"


def test_A18_one_that_hangs_holds_up_nobody_and_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    hung, good = Notes("hung"), Notes("good")
    hung.gate.clear()
    trackers = Trackers(hung, good)
    assert hung.reached.wait(PATIENCE)
    for step in range(WAITING + 5):
        trackers.log(step, {"loss": 1.0})
    assert trackers.close(timeout=0.0) is False
    lost = "hung takes nothing: 10000 rows wait for it, and the oldest go; training goes on"
    assert [line for line in said(caplog) if line.startswith("hung")] == [
        lost,
        "hung has not ended: 10000 rows still wait for it, and are given up",
    ]
    assert trackers.status["hung"].lost == 5
    trackers.log(0, {"loss": 1.0})
    hung.gate.set()
    for thread in threading.enumerate():
        if thread.name == "asyncckpt-hung":
            thread.join(PATIENCE)
    assert hung.told[1] == ("log", (5, {"loss": 1.0}))


def test_A18_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two trackers have one name"):
        Trackers(Notes("a"), Notes("a"))


def test_A18_what_is_no_number_is_an_error_of_the_call() -> None:
    notes = Notes()
    with Trackers(notes) as trackers, pytest.raises(TypeError, match="metric 'loss' is a str"):
        trackers.log(1, {"loss": "low"})
    assert [what for what, _ in notes.told] == ["open", "close"]


def test_A18_all_kinds_at_once_beside_a_training(tmp_path: Path, wandb: Wandb) -> None:
    stream, model = io.StringIO(), torch.nn.Linear(2, 2)
    trackers = Trackers(
        JsonLinesTracker(tmp_path / "logs"),
        ConsoleTracker(stream),
        WandbTracker("run_001", root=tmp_path / "run", monitor=("loss", "min")),
        *([TensorBoardTracker(tmp_path / "board")] if _has_tensorboard() else []),
        config={"lr": 0.1},
    )
    with trackers, AsyncCheckpointer(
        tmp_path / "run", model=model, save=SavePolicy(every_steps=2), keep=RetentionPolicy(last=1),
        monitor=("loss", "min"), listeners=[trackers],
    ) as ckpt:  # fmt: skip
        for step in range(1, 5):
            trackers.log(step, {"loss": 1 / step})
            ckpt.step(step, metrics={"loss": 1 / step})
            ckpt.wait()
    assert read_metrics(tmp_path / "logs").series("loss") == ([1, 2, 3, 4], [1.0, 0.5, 1 / 3, 0.25])
    assert [(row.event, row.step) for row in read_checkpoints(tmp_path / "logs")] == [
        ("durable", 2), ("durable", 4), ("pruned", 2),
    ]  # fmt: skip
    assert "step 4 | loss 0.2500\n" in stream.getvalue()
    assert "step 4 | durable after" in stream.getvalue()
    (run,) = wandb.begun
    assert [row["loss"] for row in run.rows if "loss" in row] == [1.0, 0.5, 1 / 3, 0.25]
    assert run.artifacts[-1][1] == ["step-4", "latest", "best"]


def _has_tensorboard() -> bool:
    from importlib.util import find_spec

    return find_spec("tensorboard") is not None


def test_A18_json_lines_are_there_when_the_call_returns(tmp_path: Path) -> None:
    trackers = Trackers(JsonLinesTracker(tmp_path))
    trackers.log(1, {"loss": 0.5})
    assert read_metrics(tmp_path).series("loss") == ([1], [0.5])
    trackers.on_event(Pruned(1, 1, "no rule keeps it", "policy"))
    assert [row.event for row in read_checkpoints(tmp_path)] == ["pruned"]
    trackers.close()
    trackers.close()


def test_A18_ctrl_c_in_one_that_is_called_at_once_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = JsonLinesTracker(tmp_path)
    trackers = Trackers(tracker)

    def interrupted(step: int, metrics: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracker, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trackers.log(1, {"loss": 1.0})
    trackers.close()


def test_A18_a_library_that_exits_in_its_thread_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Exits(Notes):
        def log(self, step: int, metrics: Mapping[str, Any]) -> None:
            sys.exit("bye")

    with Trackers(Exits()) as trackers:
        trackers.log(1, {"loss": 1.0})
    assert said(caplog) == ["notes did not take a row: bye; training goes on"]


def test_B9_it_is_confirmed_once_the_trackers_have_taken_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one, two, bad = Notes("one"), Notes("two"), Notes("bad")
    bad.fails.add("log")
    two.gate.clear()
    trackers = Trackers(one, two, bad)
    trackers.log(100, {"val_loss": 0.5}, confirm="Validation metrics")
    trackers.log(101, {"val_loss": 0.5})
    assert "logged to trackers" not in caplog.text
    two.gate.set()
    assert trackers.close(PATIENCE)
    confirmed = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [line[line.index(" ") + 1 :] for line in confirmed] == [
        "Validation metrics logged to trackers at step 100 (one, two)"
    ]


SCRIPT = """
import logging, sys
from asyncckpt.trackers import JsonLinesTracker, Trackers, initialize_wandb
exec(sys.argv[2])
sys.modules["wandb"] = None
with Trackers(JsonLinesTracker(sys.argv[1])) as trackers:
    trackers.log(7, {"val_loss": 0.5}, confirm="Validation metrics")
initialize_wandb("one", sys.argv[1])
from tests.trackers.stub import Wandb
sys.modules["wandb"] = Wandb()
initialize_wandb("two", sys.argv[1])
"""


@pytest.mark.parametrize(
    ("configured", "is_said"),
    [
        ("", 1),
        ("logging.basicConfig(level=logging.INFO)", 1),
        ("logging.basicConfig(level=logging.WARNING)", 0),
        ("logging.getLogger('asyncckpt').setLevel(logging.WARNING)", 0),
    ],
    ids=["nothing is configured", "INFO", "WARNING", "ours at WARNING"],
)
def test_B9_A7_it_is_said_to_a_person_unless_they_want_no_such_thing(
    tmp_path: Path, configured: str, is_said: int
) -> None:
    """A script that has configured no logging would see warnings alone, and so never that all went well."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "logs"), configured],
        check=True, capture_output=True, text=True, encoding="utf-8", timeout=60, cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.stdout == ""
    assert done.stderr.count("\N{CHECK MARK} Validation metrics logged to trackers at step 7 (jsonlines)") == is_said
    assert done.stderr.count("W&B is not used for one") == 1
    assert done.stderr.count("W&B is used for two") == is_said


@pytest.mark.parametrize("others", [[], ["open"], ["log"]], ids=["none", "unavailable", "refuses"])
def test_B9_nothing_is_confirmed_that_nobody_took(caplog: pytest.LogCaptureFixture, others: list[str]) -> None:
    caplog.set_level(logging.INFO)
    notes = Notes()
    notes.fails.update(others)
    with Trackers(*([notes] if others else [])) as trackers:
        trackers.log(100, {"val_loss": 0.5}, confirm="Validation metrics")
    assert "logged to trackers" not in caplog.text


def confirmed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said at INFO, without its mark."""
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    return [line.partition(" ")[2] for line in lines]


@pytest.mark.parametrize("is_immediate", [False, True])
def test_B9_one_that_cannot_be_used_does_not_keep_what_another_took_from_being_confirmed(
    caplog: pytest.LogCaptureFixture, is_immediate: bool
) -> None:
    caplog.set_level(logging.INFO)
    absent, good = Notes("absent"), Notes("good")
    absent.is_immediate = is_immediate
    absent.fails.add("open")
    with Trackers(absent, good) as trackers:
        trackers.log(100, {"val_loss": 0.5}, confirm="Validation metrics")
    assert confirmed(caplog) == ["Validation metrics logged to trackers at step 100 (good)"]
    assert trackers.status["absent"].lost == 1


def test_B9_a_row_that_is_given_up_for_one_is_confirmed_for_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lane, "WAITING", 1)
    hung, good = Notes("hung"), Notes("good")
    hung.gate.clear()
    good.is_immediate = True
    trackers = Trackers(hung, good)
    assert hung.reached.wait(PATIENCE)
    trackers.log(1, {"loss": 1.0}, confirm="Metrics")
    assert confirmed(caplog) == []
    trackers.log(2, {"loss": 1.0})
    assert confirmed(caplog) == ["Metrics logged to trackers at step 1 (good)"]
    hung.gate.set()
    assert trackers.close(PATIENCE)
    assert len(confirmed(caplog)) == 1


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "\N{CHECK MARK}"), ("ascii", "[ok]")])
def test_B9_the_mark_is_one_that_the_terminal_can_show(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, encoding: str, mark: str
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with Trackers(Notes()) as trackers:
        trackers.log(7, {"val_loss": 0.5}, confirm="Validation metrics")
    assert f"{mark} Validation metrics logged to trackers at step 7 (notes)" in caplog.text


def test_the_console_takes_any_name_at_any_terminal() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Trackers(ConsoleTracker(stream)) as trackers:
        trackers.log(3, {"größe": 1e-7, "n": 12, "none": None, "nan": float("nan"), "zero": 0.0})
        trackers.on_event(Durable(3, 1, 2_000_000, 0.25, 0.0))
    stream.seek(0)
    assert stream.read() == (
        "step 3 | gr\\xf6\\xdfe 1.00e-07 | n 12 | none None | nan nan | zero 0.0000\n"
        "step 3 | durable after 0.25 s | 2.0 MB\n"
    )
