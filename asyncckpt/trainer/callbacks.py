"""Callbacks: what is called as a training goes on. One that raises is told of in the log, and stops nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from asyncckpt.state.stateful import Stateful

if TYPE_CHECKING:
    from asyncckpt.trainer.trainer import GenericTrainer

logger = logging.getLogger("asyncckpt")


class TrainingCallback:
    """Override what you need. `epoch` counts from 1; `batch_idx` is that of a batch in its epoch, from 0.

    ``on_training_start`` and ``on_training_end`` are called once in each process, the end also where it is left by an
    exception. The others are called once for each epoch and batch, over all processes: a training that goes on in the
    middle of an epoch does not begin it again, and does not end it before it is over. One that has ``state_dict`` and
    ``load_state_dict`` is saved, and brought back. Where one of them saves by hand, it and those before it have been
    told already by what goes on from there, and those after it are told.
    """

    def on_training_start(self, trainer: GenericTrainer) -> None:
        """The model is as it was left; random numbers that are drawn here count in the first process only."""

    def on_training_end(self, trainer: GenericTrainer, logs: Mapping[str, Any]) -> None:
        """`logs`: the newest metrics of an epoch, and the phase that it ended in, as ``phase``."""

    def on_epoch_start(self, trainer: GenericTrainer, epoch: int) -> None:
        """No batch was loaded yet."""

    def on_epoch_end(self, trainer: GenericTrainer, epoch: int, logs: Mapping[str, Any]) -> None:
        """Validation and schedulers are done, the save is not."""

    def on_batch_start(self, trainer: GenericTrainer, batch_idx: int) -> None:
        """The batch is loaded."""

    def on_batch_end(self, trainer: GenericTrainer, batch_idx: int, logs: Mapping[str, Any]) -> None:
        """`logs`: what `training_step` has given, without the graph; after the step, where one was made."""


_HOOKS = {name: hook for name, hook in vars(TrainingCallback).items() if name.startswith("on_")}

_OF_A_PROCESS = ("on_training_start", "on_training_end")
"""Called in each process."""


class Callbacks:
    """Several, in the order in which they were added; among what a checkpoint holds by their classes' names."""

    def __init__(self) -> None:
        self._callbacks: list[TrainingCallback] = []
        self.heard: set[str] = set()
        """The hooks that one of them has; the others need not be called."""
        self._telling: tuple[str, int] | None = None
        """The hook that is being called, and of which callback."""
        self._told: tuple[str, list[str]] | None = None
        """The hook in the middle of which it was saved, and who had been told by then."""

    def add(self, callback: TrainingCallback) -> None:
        """Raises `TypeError` for what is none."""
        if not isinstance(callback, TrainingCallback):
            raise TypeError(f"{callback!r} is no TrainingCallback")
        self._callbacks.append(callback)
        hooks = {name: getattr(getattr(callback, name), "__func__", None) for name in _HOOKS}
        self.heard |= {name for name, hook in hooks.items() if hook is not _HOOKS[name]}

    def call(self, hook: str, *arguments: Any) -> None:
        """That method of each; of those that a save in the middle of it found told, no more."""
        told = () if self._told is None else self._already(hook)
        for number, callback in enumerate(self._callbacks):
            if number in told:
                continue
            self._telling = hook, number
            method: Callable[..., None] = getattr(callback, hook)
            try:
                method(*arguments)
            except Exception:
                logger.exception("the callback %s failed in %s", type(callback).__qualname__, hook)
        self._telling = None

    def state_dict(self) -> dict[str, Any]:
        """Of those that have one."""
        return {name: callback.state_dict() for name, callback in self._stateful()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """To those that are here; a state that nobody takes is told of."""
        left = dict(state_dict)
        for name, callback in self._stateful():
            if name in left:
                callback.load_state_dict(left.pop(name))
        if left:
            logger.warning("the checkpoint holds callbacks that this training has not: %s", ", ".join(left))

    def told(self) -> dict[str, Any] | None:
        """Which hook is being called, and who has been told: whoever saves there, and those before; None in between."""
        if self._telling is None or self._telling[0] in _OF_A_PROCESS:
            return None
        hook, number = self._telling
        return {"hook": hook, "callbacks": self._names()[: number + 1]}

    def load_told(self, told: Mapping[str, Any] | None) -> None:
        """The inverse of `told`: the next call of that hook leaves them out."""
        self._told = None if told is None else (told["hook"], list(told["callbacks"]))

    def _already(self, hook: str) -> list[int]:
        """Who was told of `hook` before it was saved; asked once."""
        if self._told is None or self._told[0] != hook:
            return []
        names, self._told = self._told[1], None
        return [number for number, name in enumerate(self._names()) if name in names]

    def _names(self) -> list[str]:
        """Their classes' names, the second of a class with a number."""
        seen: dict[str, int] = {}
        names = []
        for callback in self._callbacks:
            name = type(callback).__qualname__
            seen[name] = number = seen.get(name, 0) + 1
            names.append(name if number == 1 else f"{name} {number}")
        return names

    def _stateful(self) -> Iterator[tuple[str, Any]]:
        named = zip(self._names(), self._callbacks, strict=True)
        return ((name, callback) for name, callback in named if isinstance(callback, Stateful))
