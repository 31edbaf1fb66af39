"""Alone: a save's copies use one thread, and nobody else's operations use fewer than before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.events import Event, Fallback, Staged
from tests.checkpointer.trainings import Recorder, Toy, refuse_threads

_T = TypeVar("_T")

MANY = 3


class Copying(Recorder):
    """Notes how many threads torch uses where it is told that a snapshot was copied: by the thread that did."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, Staged):
            self.found.append((threading.current_thread().name, torch.get_num_threads()))
        super().on_event(event)


@pytest.fixture(autouse=True)
def many() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(MANY)
    yield
    torch.set_num_threads(before)


def elsewhere(act: Callable[[], _T]) -> _T:
    """What `act` returns in a thread that has just begun."""
    found = list[_T]()
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join()
    return found[0]


def saved(root: Path, listener: Copying) -> None:
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with AsyncCheckpointer(root, model=model, optimizer=optimizer, executor="thread", listeners=[listener]) as ckpt:
        ckpt.save(1).wait()
        ckpt.save(2).wait()


def test_copies_are_made_by_one_thread_which_leaves_everybody_else_theirs(tmp_path: Path) -> None:
    listener = Copying()
    saved(tmp_path, listener)
    assert listener.found == [("asyncckpt-copy", 1)] * 2
    assert torch.get_num_threads() == MANY
    assert elsewhere(torch.get_num_threads) == MANY
    assert listener.of(Fallback) == []


def test_where_that_cannot_be_it_is_said_and_copies_are_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_threads(monkeypatch, "asyncckpt-alone")
    listener = Copying()
    saved(tmp_path, listener)
    assert listener.found == [("asyncckpt-copy", MANY)] * 2
    assert [told.feature for told in listener.of(Fallback)] == ["serial copies"]
    assert "can't start new thread" in listener.of(Fallback)[0].reason
    assert elsewhere(torch.get_num_threads) == MANY
