from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, MetricsConfig, ProcessConfig
from asyncckpt.errors import SaveFailed
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from .trainings import Recorder, saved

Make = Callable[..., AsyncCheckpointer]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What holds for every executor is shown on each, or on those that a test names itself."""
    marker = metafunc.definition.get_closest_marker("executors")
    if "executor" in metafunc.fixturenames and marker is not None:
        metafunc.parametrize("executor", marker.args or ["thread", "process"], indirect=True)


@pytest.fixture
def executor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the background service runs."""
    wanted: str = getattr(request, "param", "thread")
    if wanted == "process" and sys.platform != "linux":
        pytest.skip("a worker process needs Linux")
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    return wanted


@pytest.fixture
def store(tmp_path: Path, executor: str) -> Iterator[GatedStorage]:
    """A store whose requests the test can hold and fail: in memory, or where a worker process can have it too."""
    if executor == "process":
        from asyncckpt.testing.shared import SharedGates

        shared = SharedGates(tmp_path / "store")
        yield shared
        shared.close()
    else:
        gated = GatedStorage(MemoryStorage(str(tmp_path)))
        yield gated
        gated.release()


@pytest.fixture
def recorder() -> Recorder:
    """Told of every event."""
    return Recorder()


@pytest.fixture
def registry() -> CollectorRegistry:
    """Where the metrics of the checkpointers go."""
    return CollectorRegistry()


@pytest.fixture
def outcomes(registry: CollectorRegistry) -> Callable[[str], float]:
    """How many saves ended in one way, by the metric."""
    return lambda outcome: registry.get_sample_value("asyncckpt_saves_total", {"outcome": outcome}) or 0


@pytest.fixture
def make(store: GatedStorage, recorder: Recorder, registry: CollectorRegistry, executor: str) -> Iterator[Make]:
    """Builds checkpointers of `store` (or of another root), and closes them."""
    made: list[AsyncCheckpointer] = []

    def build(root: Any = store, **options: Any) -> AsyncCheckpointer:
        options.setdefault("listeners", [recorder])
        # A worker that gave way to everything else that is tested here would be waited for the longest.
        options.setdefault("executor", ProcessConfig(nice=0) if executor == "process" else executor)
        if not made:
            options.setdefault("metrics", MetricsConfig(port=None, registry=registry))
        made.append(AsyncCheckpointer(root, **options))
        return made[-1]

    yield build
    store.release()
    for ckpt in made:
        with suppress(SaveFailed):
            ckpt.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 1, 2 and 3."""
    root = tmp_path_factory.mktemp("three") / "run"
    saved(root, 1, 2, 3)
    return root


@pytest.fixture
def root(three: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(three, tmp_path / "run", symlinks=True))
