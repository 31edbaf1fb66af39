"""Watermark: how many bytes of an arena, from its start, hold the snapshot by now.

The stager raises it; digest and write follow behind. It ends in one of two ways: `seal` (every byte is there
and was not torn) or `abort`. A commit waits for the seal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from asyncckpt.errors import SaveError


class Abandoned(SaveError):
    """The reader gave up before the snapshot was complete."""


def _nobody() -> None:
    """Nobody follows."""


class Watermark:
    """Rises monotonically from 0; any thread may wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reached = 0
        self._sealed = False
        self._error: BaseException | None = None
        self._follow: Callable[[], None] = _nobody
        self._taken = 0
        self._give_back: Callable[[int, int], None] | None = None

    @property
    def is_windowed(self) -> bool:
        """Whether what was taken is given back: bytes are there once, and not all of them at the same time."""
        return self._give_back is not None

    def through_window(self, give_back: Callable[[int, int], None]) -> None:
        """From the start: ``give_back(start, end)`` is called for bytes that were taken."""
        self._give_back = give_back

    def take(self, upto: int) -> None:
        """The reader needs the first `upto` bytes no more."""
        with self._changed:
            start, self._taken = self._taken, max(self._taken, upto)
            if self._give_back is not None and start < self._taken:
                self._give_back(start, self._taken)
            self._changed.notify_all()

    def wait_taken(self, upto: int) -> None:
        """Block until the first `upto` bytes are needed no more; raises what `abort` was given."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._taken >= upto)
            if self._error is not None:
                raise self._error

    @property
    def reached(self) -> int:
        """Bytes filled by now."""
        with self._changed:  # who is told so has seen what the thread has seen that filled them
            return self._reached

    @property
    def is_sealed(self) -> bool:
        """Whether the snapshot may be committed."""
        return self._sealed

    @property
    def error(self) -> BaseException | None:
        """Why the snapshot will never be complete, or None."""
        return self._error

    def follow(self, told: Callable[[], None]) -> None:
        """Call `told` after each change from now on, in the thread that makes it; it must not wait for anything.

        It is let go after the last change: what it holds, a job and its descriptors, holds this watermark in its turn,
        and would stay until the garbage collector comes by.
        """
        with self._changed:
            if not self._is_over:
                self._follow = told

    def advance(self, upto: int) -> None:
        """The first `upto` bytes are filled."""
        with self._changed:
            self._reached = max(self._reached, upto)
            self._changed.notify_all()
        self._follow()

    def seal(self) -> None:
        """The snapshot is complete and consistent: it may be committed. One that was aborted stays so."""
        with self._changed:
            # A save that is given up while its last bytes are copied is changed by training already: a seal after the
            # abort would have had a worker that hears of both at once commit it.
            self._sealed = self._error is None
            last = self._end()
        last()

    def abort(self, error: BaseException) -> None:
        """The snapshot will never be complete; everyone who waits gets `error`. The first call counts."""
        with self._changed:
            if not self._is_over:
                self._error = error
            last = self._end()
        last()

    @property
    def _is_over(self) -> bool:
        return self._sealed or self._error is not None

    def _end(self) -> Callable[[], None]:
        self._changed.notify_all()
        last, self._follow = self._follow, _nobody
        return last

    def leave(self) -> None:
        """The reader needs no more: threads that wait for it are released with `Abandoned`."""
        self.abort(Abandoned("the save had failed before its snapshot was complete"))

    def wait(self, upto: int) -> None:
        """Block until the first `upto` bytes are filled; raises what `abort` was given."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._reached >= upto)
            if self._error is not None:
                raise self._error

    def wait_sealed(self) -> None:
        """Block until the snapshot may be committed; raises what `abort` was given."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._sealed)
            if self._error is not None:
                raise self._error
