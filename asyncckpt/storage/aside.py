"""Aside: an open object that is read into memory set aside, for whoever may not wait until the disk has answered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from asyncckpt.errors import StorageError
from asyncckpt.storage.base import Opened

_ROOM = 1 << 20
"""Bytes that are read at a time: few enough to be in the processor's cache when they are copied."""


class OpenedAside:
    """`opened`, whose bytes come to whoever asks only while that one waits; see `Opened`.

    `wait` has something done in another thread, and raises once that is waited for no longer; `begin` only begins it.
    """

    def __init__(
        self, opened: Opened, wait: Callable[[Callable[[], None]], None], begin: Callable[[Callable[[], None]], None]
    ) -> None:
        self._opened = opened
        self._wait = wait
        self._begin = begin
        self._rooms: deque[memoryview] = deque()
        self._lock = threading.Lock()
        self._reading = 0
        self._is_closed = False

    def fill(self, into: memoryview, start: int) -> None:
        """See `Opened.fill`."""
        for at in range(0, len(into), _ROOM):
            piece = into[at : at + _ROOM]
            room = self._room()
            self._wait(partial(self._read, room[: len(piece)], start + at))
            piece[:] = room[: len(piece)]
            self._rooms.append(room)  # not one that is waited for no longer: it may be written to at any time

    def _room(self) -> memoryview:
        try:
            return self._rooms.pop()
        except IndexError:
            return memoryview(bytearray(_ROOM))

    def _read(self, room: memoryview, start: int) -> None:
        self._enter()
        try:
            self._opened.fill(room, start)
        finally:
            if self._is_last_out():
                self._opened.close()

    def _enter(self) -> None:
        with self._lock:
            if self._is_closed:
                raise StorageError("closed before it was read")
            self._reading += 1

    def _is_last_out(self) -> bool:
        with self._lock:
            self._reading -= 1
            return self._is_closed and not self._reading

    def close(self) -> None:
        """See `Opened.close`; what is being read still closes it: its descriptor must not be another file's before."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            is_last = not self._reading
        if is_last:
            self._begin(self._opened.close)
