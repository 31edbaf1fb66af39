"""Daemons: threads that do what they are given, and that nobody waits for, not even the interpreter."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from asyncckpt.storage import daemons
from asyncckpt.storage.daemons import Daemons
from asyncckpt.testing.slow import PATIENCE


def alive(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_results_and_errors_come_back_and_no_more_threads_are_begun_than_are_needed() -> None:
    pool = Daemons(3, "test-needed")
    for number in range(20):
        assert pool.submit(divmod, number, 3).result(PATIENCE) == divmod(number, 3)
    assert len(alive("test-needed")) == 1
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result(PATIENCE)
    meet = threading.Barrier(3)
    for done in [pool.submit(meet.wait, PATIENCE) for _ in range(3)]:
        done.result(PATIENCE)
    go = threading.Event()
    waiting = [pool.submit(go.wait, PATIENCE) for _ in range(5)]
    assert len(alive("test-needed")) == 3
    waiting[4].cancel()
    go.set()
    pool.shutdown()
    assert [done.result(0) for done in waiting[:4]] == [True] * 4, "what there was is done"
    assert alive("test-needed") == []
    with pytest.raises(RuntimeError, match="ended"):
        pool.submit(divmod, 1, 1)


@pytest.mark.parametrize("divisor", [1, 0])
def test_who_is_told_that_work_is_done_has_its_thread_for_the_next(divisor: int) -> None:
    pool, go, told = Daemons(2, "test-next"), threading.Event(), threading.Event()
    follow: list[Future[int]] = []

    def then(_: object) -> None:
        follow.append(pool.submit(threading.get_ident))
        told.set()

    def work() -> None:
        go.wait(PATIENCE)
        divmod(1, divisor)

    pool.submit(work).add_done_callback(then)
    (thread,) = alive("test-next")
    go.set()
    assert told.wait(PATIENCE)
    assert follow[0].result(PATIENCE) == thread.ident
    assert alive("test-next") == [thread]
    pool.shutdown()


def test_they_end_once_nobody_has_them() -> None:
    pool = Daemons(2, "test-dropped")
    pool.submit(int).result(PATIENCE)
    (thread,) = alive("test-dropped")
    del pool
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_an_error_keeps_nothing_alive_of_what_failed() -> None:
    class Memory:
        def __call__(self) -> None:
            raise ValueError

    pool, memory = Daemons(1, "test-error"), Memory()
    gone = weakref.ref(memory)
    gc.disable()
    try:
        failed = pool.submit(memory)
        pool.shutdown()
        assert isinstance(failed.exception(), ValueError)
        del memory, failed
        assert gone() is None
    finally:
        gc.enable()


def test_nobody_waits_longer_than_was_said_and_no_loop_at_its_end() -> None:
    go = threading.Event()
    try:
        assert daemons.within(PATIENCE, lambda: 7) == 7
        with pytest.raises(TimeoutError, match="no answer within 0 s"):
            daemons.within(0, lambda: go.wait(PATIENCE))

        async def act() -> None:
            assert await daemons.beside(lambda: 7) == 7
            asking = asyncio.create_task(daemons.beside(lambda: go.wait(PATIENCE)))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])

        asyncio.run(act())
        assert not go.is_set()
    finally:
        go.set()
        for thread in alive("asyncckpt-look"):
            thread.join(PATIENCE)


@pytest.mark.parametrize("divisor", [1, 0])
def test_who_has_an_answer_finds_no_thread_left_behind(divisor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = daemons._serve

    def slow(*arguments: Any) -> None:
        serve(*arguments)
        time.sleep(0.05)  # a thread ends a moment after it has told: here the moment is long

    monkeypatch.setattr(daemons, "_serve", slow)
    with contextlib.suppress(ZeroDivisionError):
        daemons.within(PATIENCE, lambda: 1 // divisor)
    assert alive("asyncckpt-look") == []
    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(daemons.beside(lambda: 1 // divisor))
    assert alive("asyncckpt-look") == []


END = """
import asyncio, os, sys
from asyncckpt.errors import TransientError
from asyncckpt.storage import LocalStorage, bounded

bounded.PATIENCE = 0.01
os.mkfifo(sys.argv[1] + "/a")  # whoever opens it waits for a writer

async def act():
    store = bounded.bounded(LocalStorage(sys.argv[1]))
    try:
        await store.get("a")
    except TransientError:
        print("left behind")

loop = asyncio.new_event_loop()
loop.run_until_complete(act())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_program_that_has_left_a_disk_behind_ends(tmp_path: object) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", END, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert ended.stdout == "left behind\n", ended.stderr
    assert ended.returncode == 0
