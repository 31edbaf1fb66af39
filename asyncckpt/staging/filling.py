"""Filling: copies that end in any order, and the one number that says how far an arena is filled from its start."""

from __future__ import annotations

from collections.abc import Iterable

from asyncckpt.worker.watermark import Watermark


class Filling:
    """Copies by where they begin; one may fill bytes of several places, none before its start."""

    def __init__(self, starts: Iterable[int], size: int, watermark: Watermark) -> None:
        self._left = sorted(starts, reverse=True)
        self._done: set[int] = set()
        self._size = size
        self._watermark = watermark
        self._rise()

    def finish(self, start: int) -> None:
        """The copy that begins there is complete."""
        self._done.add(start)
        self._rise()

    def _rise(self) -> None:
        while self._left and self._left[-1] in self._done:
            self._left.pop()
        self._watermark.advance(self._left[-1] if self._left else self._size)
