from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from asyncckpt.distributed.coordinator import StoreRanks

from .executors import Launcher


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What holds for every executor is shown on each."""
    if "launch" in metafunc.fixturenames and metafunc.module.__name__ != "tests.ranks.test_outliving":
        metafunc.parametrize("launch", ["thread", "process"], indirect=True)


@pytest.fixture
def launch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Runs ranks."""
    if request.param == "process" and sys.platform != "linux":
        pytest.skip("a worker process needs Linux")
    return Launcher(request.param, tmp_path_factory.mktemp("runtime"))


@pytest.fixture(autouse=True)
def _parted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ranks that a test made in this process leave with it, and so do their threads."""
    made: list[StoreRanks] = []
    init = StoreRanks.__init__

    def noted(self: StoreRanks, *arguments: object) -> None:
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr(StoreRanks, "__init__", noted)
    before = set(threading.enumerate())
    yield
    for ranks in reversed(made):
        ranks.part(0.0)
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("asyncckpt-"):
            thread.join()
