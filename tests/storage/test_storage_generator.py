"""Python's own generator is the training's: nothing that a store does in the background draws from it."""

from __future__ import annotations

import asyncio
import importlib
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.bucket.faults import Fault
from asyncckpt.storage.bucket.requests import Requests
from asyncckpt.storage.bucket.tuning import Tuning


class Refusing:
    """A connection whose requests are refused, to be tried again."""

    async def client(self) -> None:
        """There is nothing to be asked."""

    def fault_of(self, error: Exception) -> Fault:
        """It may work later."""
        return Fault("transient", "slow_down", str(error))

    def renew(self, client: Any) -> None:
        """Nothing was refused for its credentials."""


def test_what_is_tried_again_draws_nothing_from_it() -> None:
    async def refused(client: Any) -> str:
        if requests.retries["slow_down"] < 3:
            raise ConnectionError("later")
        return "done"

    requests = Requests("s3://bucket/run", Tuning(pause=1e-6), Refusing())
    drawn = random.getstate()
    assert asyncio.run(requests.make(refused)) == "done"
    assert requests.retries["slow_down"] == 3
    assert random.getstate() == drawn


class Drawing(MemoryStorage):
    """One whose library draws from the generator as it is imported; to write takes one that is not there."""

    def imports(self, *, writes: bool) -> Sequence[str]:
        """See `asyncckpt.storage.choosing.Importing`."""
        return ("no_such_library", "drawing_library") if writes else ()


@pytest.fixture
def drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A library that draws; tells whether it was imported."""
    (tmp_path / "drawing_library.py").write_text("import random\n\nrandom.random()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "drawing_library", raising=False)
    return lambda: "drawing_library" in sys.modules


@pytest.mark.parametrize("tier", ["root", "mirror"])
def test_what_a_store_needs_is_imported_when_a_checkpointer_is_made(
    drawing: Callable[[], bool], tmp_path: Path, tier: str
) -> None:
    drawn = random.getstate()
    store = Drawing("drawing")
    roots = {"root": store} if tier == "root" else {"root": tmp_path / "run", "mirror": store}
    with AsyncCheckpointer(**roots, model=nn.Linear(1, 1), executor="thread"):
        assert drawing()
        assert random.getstate() == drawn


def test_without_it_the_generator_would_have_been_drawn_from(drawing: Callable[[], bool]) -> None:
    drawn = random.getstate()
    importlib.import_module("drawing_library")
    assert drawing()
    assert random.getstate() != drawn
