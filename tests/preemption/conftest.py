from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncckpt import AsyncCheckpointer, Preemption
from asyncckpt.errors import SaveFailed
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from ..checkpointer.trainings import Recorder

Make = Callable[..., AsyncCheckpointer]

HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Whatever a test does, the handlers are put back and no thread is left."""
    before, threads = {number: signal.getsignal(number) for number in HANDLED}, set(threading.enumerate())
    yield
    after = {number: signal.getsignal(number) for number in HANDLED}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before
    assert [t.name for t in set(threading.enumerate()) - threads if t.name.startswith("asyncckpt-not")] == []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GatedStorage]:
    gated = GatedStorage(MemoryStorage(str(tmp_path)))
    yield gated
    gated.release()


@pytest.fixture
def recorder() -> Recorder:
    """Told of every event."""
    return Recorder()


@pytest.fixture
def make(store: GatedStorage, recorder: Recorder) -> Iterator[Make]:
    """Builds checkpointers of `store` that handle signals, and closes them."""
    made: list[AsyncCheckpointer] = []

    def build(root: Any = store, **options: Any) -> AsyncCheckpointer:
        options = {"preemption": Preemption(), "listeners": [recorder], **options}
        made.append(AsyncCheckpointer(root, **options))
        return made[-1]

    yield build
    store.release()
    for ckpt in made:
        with suppress(SaveFailed):
            ckpt.close()
