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
    ``load_state_dict`` is saved, and brought back.
    """

    def on_training_start(self, trainer: GenericTrainer) -> None:
        """The model is as it was left."""

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


class Callbacks:
    """Several, in the order in which they were added; among what a checkpoint holds by their classes' names."""

    def __init__(self) -> None:
        self._callbacks: list[TrainingCallback] = []
        self.heard: set[str] = set()
        """The hooks that one of them has; the others need not be called."""

    def add(self, callback: TrainingCallback) -> None:
        """Raises `TypeError` for what is none."""
        if not isinstance(callback, TrainingCallback):
            raise TypeError(f"{callback!r} is no TrainingCallback")
        self._callbacks.append(callback)
        hooks = {name: getattr(getattr(callback, name), "__func__", None) for name in _HOOKS}
        self.heard |= {name for name, hook in hooks.items() if hook is not _HOOKS[name]}

    def call(self, hook: str, *arguments: Any) -> None:
        """That method of each."""
        for callback in self._callbacks:
            method: Callable[..., None] = getattr(callback, hook)
            try:
                method(*arguments)
            except Exception:
                logger.exception("the callback %s failed in %s", type(callback).__qualname__, hook)

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

    def _stateful(self) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for callback in self._callbacks:
            name = type(callback).__qualname__
            seen[name] = number = seen.get(name, 0) + 1
            if isinstance(callback, Stateful):
                yield name if number == 1 else f"{name} {number}", callback
