from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import SaveFailed
from asyncckpt.events import Listeners
from asyncckpt.testing.shared import SharedGates
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker import logs
from asyncckpt.worker.process import link, succession
from asyncckpt.worker.process.adopting import drained
from asyncckpt.worker.process.vigil import Vigil

from ..checkpointer.trainings import Recorder

Kill = Callable[..., dict[str, Any]]
Make = Callable[..., AsyncCheckpointer]

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the logs of worker processes lie."""
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


@pytest.fixture(scope="session")
def shared_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where those of the zygote's trainers lie."""
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture(scope="session")
def zygote(shared_runtime: Path) -> Iterator[subprocess.Popen[str]]:
    """Forks trainers that are killed."""
    process = subprocess.Popen(
        ["env", f"ASYNCCKPT_RUNTIME_DIR={shared_runtime}", sys.executable, "-m", "tests.executor.victim"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def killed(
    zygote: subprocess.Popen[str], shared_runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Kill:
    """Has a trainer of ``tmp_path / "run"`` die at a moment; what it had said."""
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(shared_runtime))

    def kill(moment: str, *arguments: object, root: Path = tmp_path / "run") -> dict[str, Any]:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        print(json.dumps([str(root), moment, *arguments]), file=zygote.stdin, flush=True)
        found: dict[str, Any] = json.loads(zygote.stdout.readline())
        return found

    return kill


def wait_for_workers(root: Path) -> None:
    """Return once no worker that has lost its trainer is at work in `root`."""
    asyncio.run(drained(str(root), PATIENCE, Listeners()))


def log_of(root: Path) -> str:
    """What workers of `root` have written."""
    texts = []
    for log in logs.folder().glob("*.log"):
        with suppress(FileNotFoundError):  # of another root, whose worker had nothing to say
            texts.append(log.read_text())
    return " ".join(text for text in texts if str(root) in text)


def wait_until_alone(root: Path) -> None:
    """Return once the worker at work in `root` has seen that its trainer is dead."""
    deadline = time.monotonic() + PATIENCE
    while ") is gone: " not in log_of(root):
        assert time.monotonic() < deadline, "no worker has lost its trainer"
        time.sleep(0.001)


class Clock:
    """The time by which the silence of one worker process is counted: it stands still unless it `runs`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs = False
        self._at = time.monotonic()

    def monotonic(self) -> float:
        at, self._at = self._at, time.monotonic()
        if self.runs:
            self.now += self._at - at
        return self.now


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> list[Clock]:
    """Those of all worker processes, the newest last: however slow the machine is, who is not stopped is not silent."""
    made: list[Clock] = []

    def vigil(beat: float, _: Callable[[], float]) -> Vigil:
        made.append(Clock())
        return Vigil(beat, made[-1].monotonic)

    monkeypatch.setattr(link, "Vigil", vigil)
    monkeypatch.setattr(succession, "SILENCE", 0.6)
    return made


@pytest.fixture
def recorder() -> Recorder:
    """Told of every event."""
    return Recorder()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SharedGates]:
    """A store whose requests the test can hold and fail, also those of a worker process."""
    shared = SharedGates(tmp_path / "store")
    yield shared
    shared.close()


@pytest.fixture
def make(store: SharedGates, recorder: Recorder) -> Iterator[Make]:
    """Builds checkpointers of `store` (or of another root) with a worker process, and closes them."""
    made: list[AsyncCheckpointer] = []

    def build(root: Any = store, **options: Any) -> AsyncCheckpointer:
        options = {"executor": "process", "listeners": [recorder], **options}
        made.append(AsyncCheckpointer(root, **options))
        return made[-1]

    yield build
    store.release()
    for ckpt in made:
        with suppress(SaveFailed):
            ckpt.close()
