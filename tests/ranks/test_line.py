"""Line: a store that falls silent is waited for so long, and no longer; what comes after it is not lost."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import HashStore, TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from asyncckpt.distributed import line as lines
from asyncckpt.distributed.coordinator import _connected
from asyncckpt.distributed.line import ANSWER, Line


def test_requests_are_carried_out_in_their_order_on_one_thread() -> None:
    line, seen = Line(), list[tuple[int, str]]()
    for number in range(50):
        line.post(lambda number=number: seen.append((number, threading.current_thread().name)), "it")
    assert line.ask(lambda: "answer") == "answer"
    assert seen == [(number, "asyncckpt-store") for number in range(50)]
    line.close()
    with pytest.raises(ConnectionError, match="has left"):
        line.ask(lambda: "too late")


def test_a_store_that_falls_silent_is_lost_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "ANSWER", 0.05)
    line, answer = Line(), threading.Event()
    with pytest.raises(ConnectionError, match=r"has not answered for 0\.05 s"):
        line.ask(answer.wait)
    monkeypatch.setattr(lines, "ANSWER", 1e6)
    with pytest.raises(ConnectionError, match="has not answered for a while"):
        line.ask(lambda: None)  # at once
    answer.set()
    while True:
        try:
            assert line.ask(lambda: "again") == "again"
            break
        except ConnectionError:
            pass
    line.close()


def test_what_the_store_raises_is_told_to_whoever_asked_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    def lost() -> None:
        raise RuntimeError("Broken pipe")

    line = Line()
    with pytest.raises(ConnectionError, match="Broken pipe"):
        line.ask(lost)
    with caplog.at_level(logging.ERROR):
        line.post(lost, "verdict/7")
        assert line.ask(lambda: 1) == 1
    assert "the other ranks could not be told verdict/7" in caplog.text
    line.close()


def test_a_second_connection_is_made_where_torch_cannot_clone_one() -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    own = _connected(PrefixStore("attempt_0", PrefixStore("default_pg", server)))
    own.set("asyncckpt/0/join/1", "asked")
    assert server.get("asyncckpt/0/join/1") == b"asked"
    assert own.timeout == timedelta(seconds=ANSWER)
    assert (own is server, server.timeout == own.timeout) == (False, False)
    with pytest.raises(RuntimeError, match="HashStore has one connection"):
        _connected(PrefixStore("default_pg", HashStore()))
