"""Callbacks: functions that are called with what becomes of every checkpoint."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias, get_args, overload

from asyncckpt.events import HOME, Durable, Event, Failed, Pruned, Staged
from asyncckpt.leading import leads
from asyncckpt.state.training_state import TrainingState

logger = logging.getLogger("asyncckpt")

Callback: TypeAlias = Callable[[TrainingState, str], object]
"""Called with where the training stood at the save, and the checkpoint's id."""

Moment: TypeAlias = Literal["staged", "durable", "failed", "pruned"]
"""When: once a snapshot is whole in memory, once it is committed, when a save failed, when retention dropped one."""

_TOLD: Mapping[Moment, type[Event]] = {"staged": Staged, "durable": Durable, "failed": Failed, "pruned": Pruned}


class Callbacks:
    """A listener that calls functions in the order in which they were registered: ``listeners=[callbacks]``.

    Those of "durable" are called once the checkpoint is committed and before its handle ends, on a background thread:
    whoever has waited for the handle finds them done, and a slow one holds up later commits, but never the training.
    Those of the other moments are called with the event itself, see `asyncckpt.events`, and on the thread that it comes
    from. One that raises is logged; the others are called, and the checkpoint stays. Of several ranks, rank 0 calls
    them. The state that each is given is its own: what the save call was told, the metrics ``lr`` or ``learning_rate``
    and ``loss`` in their fields, and what `about` says of the training (see `TrainingState`) at that moment.
    """

    def __init__(self, *callbacks: Callback, about: TrainingState | None = None) -> None:
        self._about = about or TrainingState()
        self._lock = threading.Lock()
        self._callbacks: list[tuple[Moment, Callable[..., object]]] = []
        for callback in callbacks:
            self.register(callback)

    @overload
    def register(self, callback: Callback, on: Literal["durable"] = "durable") -> None: ...
    @overload
    def register(self, callback: Callable[[Staged], object], on: Literal["staged"]) -> None: ...
    @overload
    def register(self, callback: Callable[[Failed], object], on: Literal["failed"]) -> None: ...
    @overload
    def register(self, callback: Callable[[Pruned], object], on: Literal["pruned"]) -> None: ...

    def register(self, callback: Callable[..., object], on: Moment = "durable") -> None:
        """Call `callback` too, after those that are there; one that is there already is left out with a warning.

        That of "durable" is called with a state and an id, any other with its event.
        """
        if on not in _TOLD:
            raise ValueError(f"on={on!r}: use one of {', '.join(get_args(Moment))}")
        if not callable(callback):
            raise TypeError(f"{callback!r} cannot be called: give a function of {_arguments(on)}")
        with self._lock:
            is_new = (on, callback) not in self._callbacks
            if is_new:
                self._callbacks.append((on, callback))
        if not is_new:
            logger.warning("the callback %s is registered already, and will be called once", name_of(callback))

    def unregister(self, callback: Callable[..., object], on: Moment | None = None) -> bool:
        """Do not call `callback` any more, or not `on` that; False if it was not registered."""
        return self._remove(lambda when, each: each == callback and on in (None, when)) > 0

    def clear(self, on: Moment | None = None) -> int:
        """Call nothing any more, or nothing `on` that; returns how many there were."""
        return self._remove(lambda when, _: on in (None, when))

    def _remove(self, is_meant: Callable[[Moment, Callable[..., object]], bool]) -> int:
        with self._lock:
            before = len(self._callbacks)
            self._callbacks[:] = [known for known in self._callbacks if not is_meant(*known)]
            return before - len(self._callbacks)

    def names(self, on: Moment | None = None) -> list[str]:
        """What the callbacks are called, or those `on` that, in order."""
        with self._lock:
            return [name_of(callback) for when, callback in self._callbacks if on in (None, when)]

    def on_event(self, event: Event) -> None:
        """See `asyncckpt.events.Listener`."""
        moment = next((moment for moment, kind in _TOLD.items() if isinstance(event, kind)), None)
        if moment is None or (isinstance(event, Pruned) and event.tier != HOME) or not leads():
            return
        with self._lock:
            callbacks = [callback for when, callback in self._callbacks if when == moment]  # one may unregister itself
        for callback in callbacks:
            try:
                callback(*self._given(event))
            except Exception:
                step = getattr(event, "step", None)
                logger.exception("the callback %s failed on the checkpoint of step %s", name_of(callback), step)

    def _given(self, event: Event) -> tuple[Any, ...]:
        return (self._state(event), f"{event.seq:08d}") if isinstance(event, Durable) else (event,)

    def _state(self, event: Durable) -> TrainingState:
        metrics = dict(event.metrics)
        return replace(
            self._about,
            step=event.step,
            epoch=event.epoch,
            metrics=metrics,
            id=f"{event.seq:08d}",
            timestamp=event.created - event.seconds,
            learning_rate=metrics.get("learning_rate", metrics.get("lr", self._about.learning_rate)),
            loss=metrics.get("loss"),
            loss_history=[*self._about.loss_history],
            config=dict(self._about.config),
        )


def _arguments(on: Moment) -> str:
    return "(state, id)" if on == "durable" else f"(event), a {_TOLD[on].__name__}"


def name_of(callback: object) -> str:
    """What people call it: a function by its name, what wraps one by that, anything else by its class."""
    while isinstance(callback, partial):
        callback = callback.func
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))
