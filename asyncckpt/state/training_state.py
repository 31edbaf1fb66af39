"""TrainingState: where a training stands, and what its user says about it."""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import torch
from torch import Tensor

from asyncckpt.checkpoints.listing import CheckpointInfo
from asyncckpt.configuration.plain import masked

logger = logging.getLogger("asyncckpt")

_SAID = "training_state"
"""The one key of what a TrainingState among the extras hands out, by which it is found again."""

_ABOUT = (
    "batch_size",
    "gradient_accumulation_steps",
    "max_epochs",
    "max_steps",
    "model_name",
    "dataset_name",
    "experiment_name",
    "notes",
)
"""What only the user can say, in a word or two; all else a checkpoint knows from the calls."""

LONGEST = 1 << 16
"""Losses that a checkpoint holds, the newest: to copy so many takes a save call about a millisecond."""

_LEAST = 1 << 10
"""Losses that there is room for from the first on: room that grows with each save would be planned anew each time."""


@dataclass(kw_only=True)
class TrainingState:
    """Where a training stands after `step` completed optimizer steps; the next one is ``step + 1``.

    ``resume()`` returns one. One that is given as an extra, ``extra={"about": TrainingState(batch_size=32)}``, goes
    with every checkpoint: its fields from `batch_size` on come back from ``resume()``, and in that object itself. The
    states of optimizer, scheduler and random numbers are filled in by ``asyncckpt.load(root).training`` only, since a
    resume puts them where they belong (`optimizer_state`, `scheduler_state`, `random_state`). `epoch`, `metrics`,
    `loss`, `learning_rate` and `id` are of the checkpoint, and the others are what a user says. `unknown` is what a
    newer version wrote and this one has no field for.

    `loss_history` is yours to append numbers to; a checkpoint has the newest 65,536 of them, as a tensor of float64,
    and a list that you gave is filled in place by ``resume()``. For all of a long training there is the metrics log.
    Of `config` a checkpoint has what ``config.json`` would say: JSON values, secrets masked, whatever is in it; so the
    state that ``resume()`` returns has it, and the object that you gave keeps its own.
    """

    step: int = 0
    epoch: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    id: str = ""
    timestamp: float = field(default_factory=time.time)
    """Seconds since the epoch at the save call; of a new one, when it was made."""
    learning_rate: float | None = None
    loss: float | None = None
    optimizer_state: Any = None
    scheduler_state: Any = None
    random_state: Any = None
    batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    max_epochs: int | None = None
    max_steps: int | None = None
    model_name: str | None = None
    dataset_name: str | None = None
    experiment_name: str | None = None
    notes: str | None = None
    loss_history: list[float] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    code_version: str | None = None
    """Of the code that saved it."""
    unknown: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._room = torch.zeros(0, dtype=torch.float64)
        self._is_told = False

    @property
    def global_step(self) -> int:
        """Another name of `step`."""
        return self.step

    def update_metrics(self, **metrics: float) -> None:
        """Add `metrics` to those that are there, in place of those of the same name."""
        self.metrics.update(metrics)

    def format_summary(self) -> str:
        """One line: ``Epoch: 5 | Step: 1000 | Learning Rate: 1.00e-04 | Loss: 0.1234 | accuracy: 0.9500``.

        Metrics are sorted by name; what is not known is ``-``. A metric that is the loss is not said twice.
        """
        others = {name: value for name, value in self.metrics.items() if name != "loss" or value != self.loss}
        return " | ".join(
            [
                f"Epoch: {_said(self.epoch, 'd')}",
                f"Step: {self.step}",
                f"Learning Rate: {_said(self.learning_rate, '.2e')}",
                f"Loss: {_said(self.loss, '.4f')}",
                *(f"{name}: {_said(others[name], '.4f')}" for name in sorted(others)),
            ]
        )

    # -- as a dict, and in a file --------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, and what is `unknown`; tensors stay tensors, shared with this object."""
        known = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "unknown"}
        own = {"metrics": dict(self.metrics), "loss_history": [*self.loss_history], "config": dict(self.config)}
        return {**self.unknown, **known, **own}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingState:
        """The inverse of `to_dict`; what has no field here is kept in `unknown`, and a warning names it.

        ``global_step`` is taken for `step`, and a `timestamp` may be a datetime or ISO text. Raises `ValueError` where
        the two steps differ.
        """
        given = dict(data)
        if "global_step" in given and given.setdefault("step", given["global_step"]) != given.pop("global_step"):
            raise ValueError(f"step is {data['step']} and global_step {data['global_step']}: they are the same thing")
        if "timestamp" in given:
            given["timestamp"] = _seconds(given["timestamp"])
        names = {each.name for each in fields(cls)} - {"unknown"}
        unknown = {name: given.pop(name) for name in list(given) if name not in names}
        if unknown:
            logger.warning("a training state has what this version does not know, and keeps: %s", ", ".join(unknown))
        metrics, config = (dict(given.pop(name, None) or {}) for name in ("metrics", "config"))
        losses = list(given.pop("loss_history", None) or ())
        return cls(**given, metrics=metrics, config=config, loss_history=losses, unknown=unknown)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to the JSON file at `path` (a path or a URL), whole or not at all, sealed by a digest.

        Tensors are in it as they are, in base64, and so is `config`, secrets included; for large tensors a checkpoint
        is the place. Raises `UnsupportedState` for what cannot be held, and `StorageError`.
        """
        from asyncckpt.state.state_file import write

        write(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainingState:
        """What `save` wrote, its tensors in host memory. Raises `ObjectNotFound` and `CheckpointCorruptError`."""
        from asyncckpt.state.state_file import read

        return cls.from_dict(read(path))

    # -- among the extras ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What only the user can say, for a checkpoint to hold.

        Raises `TypeError` for a loss that is no number.
        """
        said = {name: getattr(self, name) for name in _ABOUT if getattr(self, name) is not None}
        if self.config:
            said["config"] = masked(self.config)
        if self.loss_history:
            said["loss_history"] = {"count": min(len(self.loss_history), LONGEST), "values": self._packed()}
        return {_SAID: {**self.unknown, **said}}

    def _packed(self) -> Tensor:
        """The newest losses, in a tensor that is there from save to save, and twice as large where they do not fit."""
        newest = _numbers(self.loss_history[-LONGEST:])
        if len(newest) < len(self.loss_history) and not self._is_told:
            self._is_told = True
            logger.warning("checkpoints hold the newest %d losses of loss_history, the metrics log all", LONGEST)
        if len(newest) > len(self._room):
            self._room = torch.zeros(max(_LEAST, 1 << (len(newest) - 1).bit_length()), dtype=torch.float64)
        self._room[: len(newest)] = torch.frombuffer(newest, dtype=torch.float64)
        return self._room

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Be told what `state_dict` said; what it did not say is not known any more. Raises `ValueError`."""
        said = state_dict.get(_SAID)
        if not isinstance(said, dict):
            raise ValueError("this is no TrainingState's: give the extras the names they had")
        for name in _ABOUT:
            setattr(self, name, said.get(name))
        self.config = self.config or dict(said.get("config") or {})
        losses = said.get("loss_history", {})
        self.loss_history[:] = losses["values"][: losses["count"]].tolist() if "values" in losses else []
        known = (*_ABOUT, "config", "loss_history")
        self.unknown = {name: value for name, value in said.items() if name not in known}


def training_state(info: CheckpointInfo, state: Mapping[str, Any]) -> TrainingState:
    """What `info` and the restored `state` say about where the training stands."""
    made = TrainingState(
        step=info.step,
        epoch=info.epoch,
        metrics=dict(info.metrics),
        id=info.id,
        timestamp=info.created,
        learning_rate=_learning_rate(state.get("optimizer")),
        loss=info.metrics.get("loss"),
        code_version=info.code_version,
    )
    extras = state.get("extra")
    for extra in extras.values() if isinstance(extras, dict) else ():
        if isinstance(extra, dict) and extra.keys() == {_SAID}:
            made.load_state_dict(extra)
    return made


def _numbers(losses: Sequence[Any]) -> array[float]:
    try:
        return array("d", losses)
    except (TypeError, ValueError, RuntimeError):
        for at, loss in enumerate(losses):
            if not isinstance(loss, int | float):
                what = f"loss_history has a {type(loss).__name__} ({at} of the newest): append numbers"
                raise TypeError(what) from None
        raise


def _learning_rate(optimizer: object) -> float | None:
    """The first parameter group's, where there is exactly one optimizer."""
    groups = optimizer.get("param_groups") if isinstance(optimizer, dict) else None
    rate = groups[0].get("lr") if groups else None
    return None if rate is None else float(rate)


def _said(value: object, spec: str) -> str:
    try:
        return "-" if value is None else format(value, spec)
    except (TypeError, ValueError):  # a metric may be anything at all here
        return str(value)


def _seconds(timestamp: Any) -> float:
    if isinstance(timestamp, str):
        timestamp = datetime.fromisoformat(timestamp)
    return timestamp.timestamp() if isinstance(timestamp, datetime) else float(timestamp)
