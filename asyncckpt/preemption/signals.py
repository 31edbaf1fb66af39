"""Signals: handlers that note what has come, call whoever was there before, and do nothing else.

A handler runs in the main thread between any two lines of it, maybe within a lock that it would want: so it logs
nothing, writes nothing and asks nobody. What is to be done is done at the next step.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias

from asyncckpt.holding import let_in

logger = logging.getLogger("asyncckpt")

Handler: TypeAlias = Callable[[int, FrameType | None], Any]


class Signals:
    """Handles `numbers` from `install` until `restore`; tells `heard` the number of each that comes.

    Those whose former handler `is_held_back` says so of are not passed on at once, but by `pass_on`. Raises
    `RuntimeError` outside of the main thread.
    """

    def __init__(
        self,
        numbers: tuple[int, ...],
        heard: Callable[[int], None],
        is_held_back: Callable[[Handler], bool] = lambda handler: False,
    ) -> None:
        if numbers and threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "Preemption handles signals, which Python allows in the main thread only: make the AsyncCheckpointer "
                "there, or give Preemption(signals=(), watch=...)"
            )
        self._heard = heard
        self._is_held_back = is_held_back
        self._process = os.getpid()
        self._is_over = False
        self._seen: set[int] = set()
        self._held: list[tuple[Handler, int]] = []
        self._handler = self._handle  # one object: a bound method is made anew each time it is asked for
        self._numbers = numbers
        self._former: dict[int, Any] = {}

    def install(self) -> None:
        """Handle them from now on; one that was held back until now is heard at once."""
        for number in self._numbers:
            self._install(number)
        let_in(self._former.keys())

    def _install(self, number: int) -> None:
        former = signal.getsignal(number)
        if former is None:  # of C code: it could be neither called nor put back
            logger.warning("%s is handled outside of Python and gives no notice", signal.Signals(number).name)
            return
        self._former[number] = former
        signal.signal(number, self._handler)

    @property
    def holds_back(self) -> bool:
        """Whether a handler is still to be called."""
        return bool(self._held)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        former = _living(self._former[number], number)  # a closed one's would do as before, and that may be to die
        if self._is_over or os.getpid() != self._process:  # a forked child is to die of it
            _as_before(former, number, frame)
            return
        again = number in self._seen
        self._seen.add(number)
        self._heard(number)
        if former is signal.default_int_handler:
            if again:  # whoever presses Ctrl-C twice means it
                former(number, frame)
        elif callable(former):
            if self._is_held_back(former):
                self._held.append((former, number))
            else:
                former(number, frame)

    def pass_on(self) -> None:
        """Call the handlers that were held back; they may raise, and end the process."""
        held, self._held = self._held[:1], []
        for handler, number in held:
            handler(number, None)

    def restore(self) -> None:
        """Put the former handlers back; one that was installed since, and calls these, calls those from now on."""
        self._is_over = True
        for number, former in self._former.items():
            if signal.getsignal(number) is not self._handler:
                continue
            try:
                signal.signal(number, _living(former, number))
            except ValueError:  # not in the main thread
                logger.info("%s stays handled, as it was before", signal.Signals(number).name)


def _as_before(former: Any, number: int, frame: FrameType | None) -> None:
    if callable(former):
        former(number, frame)
    elif former == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _living(handler: Any, number: int) -> Any:
    """The first of those that were there before that no closed checkpointer had installed."""
    owner = getattr(handler, "__self__", None)
    while isinstance(owner, Signals) and owner._is_over:
        handler = owner._former[number]
        owner = getattr(handler, "__self__", None)
    return handler
