"""Queued: the saves that were handed over and not begun, and which of them a newer one takes the place of."""

from __future__ import annotations

import threading

from asyncckpt.saves.handing import HandOver


class Queued:
    """Of one checkpointer; training thread, copier and worker all have to do with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hands: list[tuple[HandOver, bool]] = []

    def add(self, hand: HandOver, *, replaceable: bool) -> None:
        """`hand` is on its way; a `replaceable` one gives way to any newer save, others to an emergency alone."""
        with self._lock:
            self._hands.append((hand, replaceable))

    def remove(self, job: str) -> None:
        """`job` is over, or being taken back."""
        with self._lock:
            self._hands = [(hand, kind) for hand, kind in self._hands if hand.job.id != job]

    def newest_first(self, *, replaceable: bool) -> list[HandOver]:
        """Those that are `replaceable`, or all."""
        with self._lock:
            return [hand for hand, kind in reversed(self._hands) if kind or not replaceable]
