from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from asyncckpt.distributed.coordinator import StoreRanks


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
