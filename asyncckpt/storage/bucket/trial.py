"""Trial: when something is tried again that was refused: after a while, which grows, or for somebody new."""

from __future__ import annotations

import time
from typing import Any

_SOON = 30.0
"""Seconds after it was refused for the first time: twice as many the next time, and so on."""

_SELDOM = 3600.0


class Trial:
    """Whether it may be tried; all on one event loop."""

    def __init__(self) -> None:
        self._refused: Any = None
        self._pause = 0.0
        self._until = 0.0

    @property
    def is_on(self) -> bool:
        """Whether it was refused when it was tried last."""
        return self._refused is not None

    def is_due(self, client: Any) -> bool:
        """Whether `client` may try it: one does, and the others wait to hear what comes of that."""
        if self._refused is None:
            return True
        now = time.monotonic()
        if client is self._refused and now < self._until:
            return False
        self._refused, self._until = client, now + self._pause
        return True

    def refuse(self, client: Any, *, is_again: bool) -> None:
        """`client` was refused, `is_again` if it was so before that had begun; of several at once the first counts."""
        if self._refused is not None and not is_again:
            return
        self._pause = min(_SELDOM, 2 * self._pause) if is_again else _SOON
        self._refused, self._until = client, time.monotonic() + self._pause

    def accept(self) -> bool:
        """It was not refused; whether that is news."""
        is_news, self._refused = self.is_on, None
        return is_news
