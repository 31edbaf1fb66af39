"""Work on an event loop of its own that is interrupted: what it has to put in order is waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from asyncckpt.storage import stopped
from asyncckpt.storage.stopped import put_in_order
from asyncckpt.testing.slow import PATIENCE

Interrupt = Callable[[int], threading.Event]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Who waits for it is interrupted so often, once what is returned is set: as a Ctrl-C does, and no sooner."""
    wait, begun = stopped.wait, threading.Event()

    def times(left: int) -> threading.Event:
        def waits(*arguments: Any) -> Any:
            nonlocal left
            assert begun.wait(PATIENCE)
            if left:
                left -= 1
                raise KeyboardInterrupt
            return wait(*arguments)

        monkeypatch.setattr(stopped, "wait", waits)
        return begun

    return times


def test_who_interrupts_it_waits_until_it_is_in_order(interrupt: Interrupt) -> None:
    begun, said = interrupt(1), list[str]()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            said.append("in order")

    with pytest.raises(KeyboardInterrupt):
        put_in_order(work(), "interrupted")
    assert said == ["in order"]
    assert "interrupted" not in {thread.name for thread in threading.enumerate()}


def test_what_was_done_all_the_same_is_told(interrupt: Interrupt) -> None:
    begun = interrupt(1)

    async def work() -> str:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "done"
        return "never"

    assert put_in_order(work(), "interrupted") == "done"


def test_who_interrupts_it_twice_waits_for_nothing(interrupt: Interrupt) -> None:
    begun, go = interrupt(2), threading.Event()

    async def work() -> None:
        begun.set()
        await asyncio.to_thread(go.wait, PATIENCE)

    with pytest.raises(KeyboardInterrupt):
        put_in_order(work(), "interrupted")
    go.set()
    for thread in threading.enumerate():
        if thread.name == "interrupted":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_who_interrupts_its_end_is_told_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wait, ending, again, is_interrupted = stopped.wait, threading.Event(), threading.Event(), False

    def waits(futures: Any, seconds: float) -> Any:
        nonlocal is_interrupted
        if not is_interrupted:
            is_interrupted = True
            assert ending.wait(PATIENCE)
            raise KeyboardInterrupt
        again.set()
        assert wait(futures, PATIENCE).done
        return wait(futures, seconds)

    monkeypatch.setattr(stopped, "wait", waits)

    async def late() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ending.set()
            await asyncio.to_thread(again.wait, PATIENCE)  # by then the interrupt has been heard

    async def work() -> str:
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
        return f"done, {task.get_name()} is left"

    assert put_in_order(work(), "interrupted").startswith("done")


def test_what_cannot_be_begun_is_an_error() -> None:
    def around() -> AbstractContextManager[None]:
        raise OSError("no descriptor is left")

    work = asyncio.sleep(0)
    with pytest.raises(OSError, match="no descriptor"):
        put_in_order(work, "interrupted", around)
    work.close()
