"""The gates of the tests themselves: what asks at them when they close is let through, and left by nobody."""

from __future__ import annotations

import gc
import socket
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.testing.shared import SharedGates

CLOSINGS, AT_ONCE = 30, 20


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nobody has closed, as the garbage collector finds it."""
    found: list[str] = []

    def hook(what: Any) -> None:
        found.append(str(what.exc_value))

    monkeypatch.setattr(sys, "unraisablehook", hook)
    gc.collect()
    found.clear()
    return found


def test_gates_that_close_while_others_ask_leave_no_connection_open(tmp_path: Path, left: list[str]) -> None:
    for number in range(CLOSINGS):
        gates, over = SharedGates(tmp_path / str(number)), threading.Event()
        asking = [threading.Thread(target=ask, args=(gates.name, over)) for _ in range(2)]
        with gates.hold("put"):
            for each in asking:
                each.start()
            while not gates.count("put"):
                pass
        gates.close()
        over.set()
        for each in asking:
            each.join()
        del gates
    gc.collect()
    assert left == []


def ask(name: str, over: threading.Event) -> None:
    """Whether a request may be made, again and again, and without waiting for the answer."""
    kept: deque[socket.socket] = deque()
    while not over.is_set():
        kept.append(connection := socket.socket(socket.AF_UNIX))
        if len(kept) > AT_ONCE:
            kept.popleft().close()
        with suppress(OSError):  # they are closed
            connection.connect(f"\0{name}")
            connection.sendall(b'["put", "key"]\n')
    for connection in kept:
        connection.close()
