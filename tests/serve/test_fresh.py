"""What was read is shown again while it is new, and what cannot be read any more says so."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncckpt.errors import CheckpointNotFoundError, StorageError
from asyncckpt.serve import fresh as freshness
from asyncckpt.serve.fresh import Fresh
from asyncckpt.serve.reader import Reader, StoreSlow


class Source:
    """Counts its looks; raises, or waits, where it is told to."""

    def __init__(self) -> None:
        self.looks = 0
        self.error: Exception | None = None
        self.gate: threading.Event | None = None

    async def look(self) -> int:
        self.looks += 1
        if self.gate is not None:
            await asyncio.to_thread(self.gate.wait)
        if self.error is not None:
            raise self.error
        return self.looks


def test_what_is_new_is_not_looked_at_again() -> None:
    source = Source()
    with Reader() as reader:
        often, seldom = Fresh("x", reader, source.look, 0.0), Fresh("x", reader, source.look, 1e9)
        assert [seldom.now().value for _ in range(3)] == [1, 1, 1]
        assert [often.now().value for _ in range(2)] == [2, 3]


def test_what_cannot_be_read_any_more_is_shown_as_it_was_with_the_reason() -> None:
    source = Source()
    with Reader() as reader:
        fresh = Fresh("x", reader, source.look, 0.0)
        before = fresh.now()
        source.error = StorageError(5, "s3://me:pass@host/x: it is away")
        after = fresh.now()
        assert (after.value, after.at) == (before.value, before.at)
        assert after.trouble == "s3://***@host/x: it is away"
        source.error = None
        assert fresh.now().trouble == ""


def test_where_nothing_was_ever_read_the_reason_is_raised() -> None:
    source = Source()
    source.error = CheckpointNotFoundError("there is no run")
    with Reader() as reader:
        fresh = Fresh("x", reader, source.look, 0.0)
        for _ in range(2):
            with pytest.raises(CheckpointNotFoundError, match="there is no run"):
                fresh.now()
        source.error = None
        assert fresh.now().value == 3


def test_a_store_that_hangs_holds_nobody_up_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "LATER", 0.01)
    source = Source()
    with Reader() as reader:
        fresh = Fresh("the store", reader, source.look, 0.0)
        source.gate = threading.Event()
        with pytest.raises(StoreSlow, match="the store has not answered yet"):
            fresh.now(0.01)
        reader.answer(asyncio.sleep(0))  # the look has begun by then
        assert source.looks == 1
        source.gate.set()
        assert fresh.now().value == 1
        source.gate = threading.Event()
        known = fresh.now()
        assert (known.value, known.trouble) == (1, "the store has not answered yet")
        reader.answer(asyncio.sleep(0))
        assert source.looks == 2
        source.gate.set()


def test_a_mistake_of_ours_is_no_sentence_of_a_store() -> None:
    source = Source()
    with Reader() as reader:
        fresh = Fresh("x", reader, source.look, 0.0)
        fresh.now()
        source.error = KeyError("secret")
        assert fresh.now().trouble == "KeyError: this is a mistake of asyncckpt; where the page is served it says more"


def test_what_takes_long_to_read_is_read_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "LONG", -1.0)
    monkeypatch.setattr(freshness, "SELDOM", 1e12)
    source = Source()
    with Reader() as reader:
        fresh = Fresh("x", reader, source.look, 0.0)
        assert [fresh.now().value for _ in range(3)] == [1, 1, 1]
