"""Save policy: when a periodic save is due, and what goes into it. Pure but for the clock it is given."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from asyncckpt.clock import Clock
from asyncckpt.format.codec import ENCRYPTION, WANTED
from asyncckpt.retention import Monitor
from asyncckpt.wording import check_template

PARTS = ("optimizer", "scheduler", "scaler", "dataloader", "extra", "rng")
"""What a policy may leave out of checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePolicy:
    """When ``step`` and ``epoch_end`` save, what is left out, and what each checkpoint says of itself.

    Several conditions make one save, and step 0 makes none. ``every_steps``: at each multiple. ``every_seconds``: that
    long after the last save began. ``every_epochs``: at ``epoch_end`` of each multiple. ``on_best``: when the monitored
    metric is better than that of all that is saved, or on its way.

    ``exclude`` names parts that no checkpoint gets and no restore touches: ``("optimizer", "rng")``, of `PARTS`.
    ``message`` is a template, ``"epoch {epoch}: {val_loss:.4f}"``, for `CheckpointInfo.message`; what a save has no
    value for stands there as ``?``. Both hold for explicit saves too.

    ``codec``: what every checkpoint is stored with, those saved by hand too: ``"zstd"`` (extra ``zstd``),
    ``"aes256gcm"`` (extra ``crypto``, and a key, see `asyncckpt.keys`) or ``"zstd+aes256gcm"``; None stores tensors as
    they are, as plain safetensors. It stands here because it is part of what a save is, on every tier alike; whoever
    reads is told by the manifest. With one that encrypts, `resume` and `restore` refuse a checkpoint that is not
    encrypted (`NotEncrypted`): it may be from anybody. ``accept_plain=True`` takes it, for a run that was not encrypted
    before.

    ``incremental``: False writes every checkpoint whole, for whoever copies folders of single ones elsewhere. What did
    not change is else shared with older ones, which costs nothing: each loads by itself whatever was removed.

    Raises `ValueError` for what means nothing.
    """

    every_steps: int | None = None
    every_seconds: float | None = None
    every_epochs: int | None = None
    on_best: bool = False
    codec: str | None = None
    accept_plain: bool = False
    exclude: Collection[str] = ()
    message: str | None = None
    incremental: bool = True

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_seconds", "every_epochs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"SavePolicy({name}={value}): use a positive number, or None to turn it off")
        if self.codec not in (None, *WANTED):
            raise ValueError(f"SavePolicy(codec={self.codec!r}): use one of {', '.join(WANTED)}, or None")
        if self.accept_plain and not (self.codec or "").endswith(ENCRYPTION):
            raise ValueError(
                f"SavePolicy(accept_plain=True, codec={self.codec!r}): plain checkpoints are refused only where the "
                f"codec encrypts; leave accept_plain out, or use codec={ENCRYPTION!r}"
            )
        excluded = (self.exclude,) if isinstance(self.exclude, str) else self.exclude
        object.__setattr__(self, "exclude", tuple(sorted(excluded)))  # all ranks compare how it is written
        for part in self.exclude:
            if part not in PARTS:
                raise ValueError(f"SavePolicy(exclude={part!r}): what can be left out is {', '.join(PARTS)}")
        if self.message is not None:
            check_template(self.message)

    @property
    def alike_on_all_ranks(self) -> bool:
        """Whether every rank decides the same by itself: clocks and metrics differ, step numbers do not."""
        return self.every_seconds is None and not self.on_best

    def is_due(self, step: int, *, ended_epoch: int | None = None, is_best: bool = False, seconds: float = 0.0) -> bool:
        """Whether to save after `step`, or where `ended_epoch` is given, at the end of that many epochs.

        `is_best` says that the monitored metric improves, `seconds` how long ago the last save began. Asking changes
        nothing.
        """
        if step == 0:
            return False
        if self.on_best and is_best:
            return True
        if ended_epoch is not None:
            return self.every_epochs is not None and ended_epoch > 0 and ended_epoch % self.every_epochs == 0
        on_step = self.every_steps is not None and step % self.every_steps == 0
        on_time = self.every_seconds is not None and seconds >= self.every_seconds
        return on_step or on_time


class Decider:
    """Applies a policy to one training; remembers when it last saved, and the best value seen."""

    def __init__(self, policy: SavePolicy, monitor: Monitor | None, clock: Clock) -> None:
        if policy.on_best and monitor is None:
            raise ValueError('SavePolicy(on_best=True) needs monitor=("metric", "min" or "max")')
        self.policy = policy
        self._monitor = monitor
        self._clock = clock
        self._saved_at = clock.monotonic()
        self._best: float | None = None
        """What has to be beaten."""
        self._kept: float | None = None
        """The same of what is there for certain."""

    def at_step(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether to save after `step`; what is measured before the first is no best, since it is not saved."""
        best = step != 0 and self.policy.on_best and self._improves(metrics)
        return self.policy.is_due(step, is_best=best, seconds=self._clock.monotonic() - self._saved_at)

    def foreseen(self, step: int, most: int) -> tuple[int, float]:
        """The first step after `step` that is due by its number, `most` steps ahead if none is before, and from when on
        any step is due, by the clock. Where metrics decide, nothing is known ahead.
        """
        if self.policy.on_best:
            return step, -math.inf
        ahead = range(step + 1, step + most)
        due = math.inf if self.policy.every_seconds is None else self._saved_at + self.policy.every_seconds
        return next((number for number in ahead if self.policy.is_due(number)), ahead.stop), due

    def at_epoch_end(self, epoch: int, step: int, metrics: Mapping[str, float]) -> bool:
        """The same after `epoch` completed epochs, at `step`."""
        best = step != 0 and self.policy.on_best and self._improves(metrics)
        return self.policy.is_due(step, ended_epoch=epoch, is_best=best)

    def saved(self) -> None:
        """A save begins now, for whatever reason."""
        self._saved_at = self._clock.monotonic()

    def seen(self, metrics: Mapping[str, float]) -> None:
        """Metrics of a checkpoint, restored or saved by hand: what comes must be better than those."""
        self._improves(metrics)

    def kept(self, metrics: Mapping[str, float]) -> None:
        """The same of one that is there, and stays to be beaten whatever else is lost."""
        self._kept = self._better(metrics, self._kept)
        self._improves(metrics)

    def lost(self, under_way: Iterable[Mapping[str, float]]) -> None:
        """A save came to nothing: what comes need not be better than that, but than what is there or `under_way`."""
        self._best = self._kept
        for metrics in under_way:
            self._improves(metrics)

    def _improves(self, metrics: Mapping[str, float]) -> bool:
        former, self._best = self._best, self._better(metrics, self._best)
        return self._best is not former

    def _better(self, metrics: Mapping[str, float], than: float | None) -> float | None:
        """The monitored one of `metrics` where it is better, else `than`."""
        if self._monitor is None or self._monitor[0] not in metrics:
            return than
        value = metrics[self._monitor[0]]
        if math.isnan(value):
            return than
        better = than is None or (value < than if self._monitor[1] == "min" else value > than)
        return value if better else than
