"""Copies wait for room behind those that a device has not made yet, until a step waits for them."""

from __future__ import annotations

import threading

import pytest

from asyncckpt.staging.backlog import Backlog
from asyncckpt.testing.slow import PATIENCE


def test_there_is_room_for_so_many_bytes_and_what_is_made_leaves_room() -> None:
    backlog = Backlog(10)
    assert [backlog.enter(nbytes, wait=False) for nbytes in (4, 6, 1)] == [True, True, False]
    backlog.leave(4)
    assert [backlog.enter(nbytes, wait=False) for nbytes in (5, 4)] == [False, True]


def test_what_is_larger_than_the_bound_is_queued_alone() -> None:
    backlog = Backlog(10)
    assert backlog.enter(50, wait=False)
    assert not backlog.enter(1, wait=False)
    backlog.leave(50)
    assert backlog.enter(1, wait=False)
    assert not backlog.enter(50, wait=False)


@pytest.mark.parametrize("end", ["leave", "open"])
def test_whoever_waits_goes_on_once_there_is_room(end: str) -> None:
    backlog = Backlog(10)
    backlog.enter(10, wait=True)
    thread = threading.Thread(target=lambda: backlog.enter(3, wait=True))
    thread.start()
    backlog.leave(10) if end == "leave" else backlog.open()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert backlog.enter(8, wait=False) == (end == "open")


def test_once_open_there_is_room_for_everything() -> None:
    backlog = Backlog(1)
    backlog.open()
    assert all(backlog.enter(100, wait=False) for _ in range(5))
