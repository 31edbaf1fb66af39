"""A7, A8, A9, A10: W&B is begun or it is not, and the training goes on in either case, at once."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asyncckpt.trackers import initialize_wandb, initialize_wandb_async
from asyncckpt.trackers.credentials import wandb_id

from .stub import Meeting, Wandb


def test_A7_it_resumes_the_run_of_that_name(wandb: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert initialize_wandb("run_001", str(tmp_path / "run_001")) is True
    assert [record.getMessage() for record in caplog.records] == ["W&B is used for run_001"]
    assert wandb.run is not None
    assert wandb.run.arguments == {
        "id": "run_001", "name": "run_001", "project": "asyncckpt", "dir": str(tmp_path / "run_001"), "resume": "allow",
    }  # fmt: skip
    wandb.run.finish()
    assert initialize_wandb("run_001", tmp_path, "keisei", config={"lr": 1, "api_key": "secret"}) is True
    assert wandb.run.arguments["project"] == "keisei"
    assert wandb.run.arguments["config"] == {"lr": 1, "api_key": "***"}


def test_A7_repeating_it_opens_no_second_run(wandb: Wandb, tmp_path: Path) -> None:
    assert initialize_wandb("run_001", tmp_path)
    assert initialize_wandb("run_001", tmp_path)
    assert len(wandb.begun) == 1


def test_A7_two_threads_that_begin_it_at_once_open_one_run(wandb: Wandb, tmp_path: Path) -> None:
    """Where nothing kept them apart, both would be in ``wandb.init`` before either has a run."""
    wandb.gate = Meeting()
    said: list[bool] = []
    threads = [threading.Thread(target=lambda: said.append(initialize_wandb("one", tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said == [True, True]
    assert len(wandb.begun) == 1


def test_A7_on_an_event_loop_it_is_the_same_and_the_loop_goes_on(wandb: Wandb, tmp_path: Path) -> None:
    wandb.gate = threading.Event()

    async def act() -> bool:
        beginning = asyncio.ensure_future(initialize_wandb_async("one", tmp_path, "mine", config={"lr": 1}))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not beginning.done()
        assert wandb.gate is not None
        wandb.gate.set()
        return await beginning

    assert asyncio.run(act()) is True
    (run,) = wandb.begun
    assert (run.id, run.arguments["project"], run.arguments["dir"]) == ("one", "mine", str(tmp_path))
    assert run.config == {"lr": 1}


@pytest.mark.parametrize(
    "error",
    [
        TypeError("a type"), ValueError("a value"), OSError("a disk"), AttributeError("x"), ImportError("y"),
        SystemExit("over"), KeyError("z"), RuntimeError(""),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_A7_whatever_it_raises_is_one_line_and_False(
    wandb: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    wandb.fails = error
    assert initialize_wandb("run_001", tmp_path) is False
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("W&B is not used for run_001: ")
    assert said.endswith("; training goes on")
    assert (str(error) or type(error).__name__) in said
    wandb.fails = None
    assert initialize_wandb("run_001", tmp_path) is True


def test_A7_no_package_is_False_and_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert initialize_wandb("run_001", tmp_path) is False
    assert "pip install 'asyncckpt[wandb]'" in caplog.text


def test_A7_no_answer_is_False_and_a_late_run_is_not_left_open(
    wandb: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.gate = threading.Event()
    assert initialize_wandb("run_001", tmp_path, timeout=0.05) is False
    assert "no answer within 0.05 s" in caplog.text
    (late,) = [thread for thread in threading.enumerate() if thread.name == "asyncckpt-wandb-init"]
    wandb.gate.set()
    late.join(60)
    assert (len(wandb.begun), wandb.begun[0].finished, wandb.run) == (1, 1, None)


@pytest.mark.parametrize("mode", ["offline", "disabled", "dryrun"])
def test_A8_a_mode_that_needs_no_key_needs_none(
    wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    wandb.has_key = False
    monkeypatch.setenv("WANDB_MODE", mode)
    assert initialize_wandb("run_001", tmp_path) is True


def test_A8_without_a_key_nobody_is_asked_and_it_says_what_to_do(
    wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.has_key = False
    assert initialize_wandb("run_001", tmp_path) is False
    assert wandb.begun == []
    assert "set WANDB_API_KEY" in caplog.text
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert initialize_wandb("run_001", tmp_path) is True


def test_A8_the_environment_comes_before_what_is_given(
    wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("PROJECT", "theirs"),
        ("DIR", "/theirs"),
        ("RUN_ID", "its"),
        ("NAME", "it"),
        ("RESUME", "must"),
    ):
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert initialize_wandb("run_001", tmp_path, "ours")
    assert initialize_wandb("run_001", tmp_path, "ours")
    assert wandb.begun[0].arguments == {}
    assert len(wandb.begun) == 1


ASKED = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:  # at a terminal, where the package would ask for a key
    from asyncckpt.trackers import initialize_wandb
    os._exit(42 if initialize_wandb("run_001", sys.argv[1]) is False else 1)
said = b""
try:
    while data := os.read(terminal, 1024):
        said += data
except OSError:
    pass
print(said.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no terminals")
def test_A8_the_real_package_at_a_terminal_without_a_key_asks_for_none(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    environment = {**os.environ, "HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", ASKED, tmp_path],
        env=environment,
        check=False,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 42, done.stdout + done.stderr
    assert "W&B has no API key" in done.stdout


LAZY = """
import sys, threading
asked = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "wandb":
            asked.append(name)
            raise ModuleNotFoundError(name)  # also one that would be caught is too early: it takes two seconds
sys.meta_path.insert(0, Watch())
import asyncckpt, asyncckpt.trackers as trackers
trackers.WandbTracker("run"), trackers.TensorBoardTracker("logs"), trackers.ConsoleTracker()
assert not {"wandb", "tensorboard", "torch", "matplotlib"} & {*sys.modules}
assert threading.active_count() == 1
import torch
with asyncckpt.Run.open(sys.argv[1], logs=False) as run:
    with asyncckpt.AsyncCheckpointer(run, model=torch.nn.Linear(2, 2), executor="thread") as ckpt:
        ckpt.save(1).wait()
assert asked == []
assert trackers.initialize_wandb("run", "artifacts") is False
assert asked == ["wandb"]
"""


def test_A9_W_and_B_is_imported_when_it_is_begun_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LAZY, str(tmp_path / "run")],
        cwd=tmp_path / "cwd", check=False, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pip install 'asyncckpt[wandb]'" in done.stderr
    assert list((tmp_path / "cwd").iterdir()) == []


def test_A10_another_run_that_is_active_is_left_alone(
    wandb: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert initialize_wandb("one", tmp_path / "one")
    assert initialize_wandb("two", tmp_path / "two") is False
    assert wandb.run is wandb.begun[0]
    assert "the run one is active in this process" in caplog.text


@pytest.mark.parametrize("name", ["a/b", "a:b", "a b", "ä", "../x", "", ".", "x" * 200, "a?b#c%d\\e", " a", "\ud800"])
def test_A7_names_that_W_and_B_refuses_become_ids_that_it_takes(name: str) -> None:
    made = wandb_id(name)
    assert made == wandb_id(name)
    assert 0 < len(made) <= 128
    assert not set(made) & set(":;,#?/'\\% ")
    assert made == made.strip()


def test_A10_no_two_names_become_one_id() -> None:
    names = ["a/b", "a:b", "a-b", "a b", "", "-", "x" * 150, "x" * 151]
    assert len({wandb_id(name) for name in names}) == len(names)
    assert wandb_id("wave_20260301_120000_a3f2b1c4") == "wave_20260301_120000_a3f2b1c4"
