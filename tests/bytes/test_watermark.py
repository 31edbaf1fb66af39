"""The watermark: readers follow the filler, and nobody waits for what will never come."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest

from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker.watermark import Abandoned, Watermark


class Waiting:
    """A call in a thread, and what it raised."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.error = error

    def ended(self) -> bool:
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()


def test_a_reader_waits_until_its_bytes_are_there() -> None:
    mark = Watermark()
    reader = Waiting(lambda: mark.wait(10))
    mark.advance(9)
    assert reader._thread.is_alive()
    mark.advance(10)
    assert reader.ended()
    assert reader.error is None


def test_it_never_falls() -> None:
    mark = Watermark()
    mark.advance(10)
    mark.advance(5)
    assert mark.reached == 10


def test_all_bytes_are_not_a_seal() -> None:
    mark = Watermark()
    committer = Waiting(mark.wait_sealed)
    mark.advance(1 << 40)
    assert committer._thread.is_alive()
    mark.seal()
    assert committer.ended()
    assert committer.error is None


@pytest.mark.parametrize("wait", [lambda mark: mark.wait(10), lambda mark: mark.wait_sealed()])
def test_an_abort_reaches_everyone_who_waits_or_will(wait: Callable[[Watermark], None]) -> None:
    mark = Watermark()
    before = Waiting(lambda: wait(mark))
    error = RuntimeError("torn")
    mark.abort(error)
    mark.abort(RuntimeError("later"))
    mark.seal()
    assert before.ended()
    assert before.error is error
    with pytest.raises(RuntimeError, match="torn"):
        wait(mark)
    assert not mark.is_sealed
    assert mark.error is error


def test_what_is_sealed_cannot_be_aborted_any_more() -> None:
    mark = Watermark()
    mark.advance(10)
    mark.seal()
    mark.abort(RuntimeError("too late"))
    mark.wait(10)
    mark.wait_sealed()


def test_a_reader_that_leaves_releases_the_others() -> None:
    mark = Watermark()
    other = Waiting(lambda: mark.wait(10))
    mark.leave()
    assert other.ended()
    assert isinstance(other.error, Abandoned)


@pytest.mark.parametrize("end", [Watermark.seal, lambda mark: mark.abort(RuntimeError("torn")), Watermark.leave])
@pytest.mark.parametrize("late", [False, True])
def test_who_follows_is_told_of_the_end_and_let_go(end: Callable[[Watermark], None], late: bool) -> None:
    """It holds the mark in its turn, and descriptors: it must not wait for the garbage collector."""

    class Follower:
        told = 0

        def __call__(self) -> None:
            Follower.told += 1

    mark, follower = Watermark(), Follower()
    if late:
        end(mark)
    mark.follow(follower)
    if not late:
        mark.advance(1)
        end(mark)
    gone = weakref.ref(follower)
    del follower
    assert gone() is None
    assert Follower.told == (0 if late else 2)
