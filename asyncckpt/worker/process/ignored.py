"""Ignored: messages that one end of the socket left out, since they mean nothing to it. Each is counted.

Both ends are of one installation, but for an upgrade under a running training, and for a fault of one of them. Neither
may end the other: what is not understood is said in the log, once for each kind, and everything else goes on.
"""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias

from asyncckpt.events import Ignored, Listeners
from asyncckpt.worker.process.wire import Message

logger = logging.getLogger("asyncckpt")

Why: TypeAlias = Literal["unknown", "malformed", "late"]
"""A kind or an event that is not known here; a known one that lacks something; one of a save that is over."""

_SHOWN = 40
"""Letters of a kind that nobody here knows: it may be anything."""


class IgnoredMessages:
    """Those of one end; `sender` is the other one, for the log. Any thread may note one."""

    def __init__(self, sender: str, listeners: Listeners) -> None:
        self._sender = sender
        self._listeners = listeners
        self._said: set[tuple[str, str]] = set()

    def note(self, why: Why, message: Message, error: BaseException | None = None) -> None:
        """Leave `message` out; `error` says what is wrong with it."""
        kind = kind_of(message)
        if why != "late" and (why, kind) not in self._said:  # late ones are no fault of anybody
            self._said.add((why, kind))
            what = f"{why} ({error!r})" if error is not None else why
            logger.warning(
                "a message of %s was ignored: %r is %s here; more of them are only counted", self._sender, kind, what
            )
        self._listeners.emit(Ignored(why, kind))


def kind_of(message: Message) -> str:
    """What a message says it is; empty where it says nothing."""
    return str(message.get("kind", ""))[:_SHOWN]
