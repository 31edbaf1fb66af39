"""Deciding: which steps are saved, once per step number and alike on all ranks, and the metrics that decide it."""

from __future__ import annotations

import logging
import math
import numbers as abstract
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from asyncckpt.distributed.agreement import Agreement, Due
from asyncckpt.distributed.counts import Counts
from asyncckpt.policy import Decider
from asyncckpt.preemption.plan import Plan
from asyncckpt.preemption.stop import Stop, plan_of, stop_of
from asyncckpt.retention import Monitor
from asyncckpt.saves.handle import SaveHandle
from asyncckpt.worker.ranks import Ranks

logger = logging.getLogger("asyncckpt")


class Decision:
    """What is due, of one training."""

    def __init__(
        self,
        decider: Decider,
        monitor: Monitor | None,
        ranks: Ranks,
        counts: Counts,
        stop: Callable[..., Stop | None] | None = None,
    ) -> None:
        self._stop = stop
        self._decider = decider
        self._monitor = monitor
        self._ranks = ranks
        self._agreement = Agreement(ranks, counts)
        self._decided: int | None = None
        self._by_hand: int | None = None
        self._saved: int | None = None
        self._at: int | None = None
        """Where the training is, as far as it was told."""
        self._has_missed = False
        self._under_way: list[tuple[SaveHandle, Mapping[str, float]]] = []
        """Saves that may still come to nothing, and their metrics."""

    def at_step(self, step: int, metrics: Mapping[str, Any] | None) -> bool | Stop:
        """Whether to save after `step`, or to stop; once for each. What was saved by hand is no reason to stay."""
        if step == self._decided:
            return step == self._by_hand and self._after_hand(step)
        if self._ranks.world == 1:  # asked at each step: nothing is made for it
            found = self._own(step, metrics)
        else:
            found = self._agree(step, lambda: self._own(step, metrics))
        self._decided = self._at = step  # only now: a call that raised has decided nothing
        return found

    def _own(self, step: int, metrics: Mapping[str, Any] | None) -> bool | Stop:
        stop = None if self._stop is None else self._stop(step)
        if self._under_way:
            self._look_at_saves()
        # A period that is one of numpy's numbers decides as numpy does.
        return bool(self._decider.at_step(step, self._watched(metrics))) if stop is None else stop

    def _after_hand(self, step: int) -> bool | Stop:
        found = self._agree(step, lambda: (self._stop and self._stop(step)) or False)
        self._by_hand = None
        return found

    def foreseen(self, step: int, most: int) -> tuple[int, float]:
        """The first step after `step` at which something may be due, `most` steps ahead if none is before that, and
        from when on it may be due at any step, by the clock. Notice is not foreseen.
        """
        return (step, -math.inf) if self._ranks.world > 1 else self._decider.foreseen(step, most)

    def passed(self, step: int) -> None:
        """The training is at `step`, and nothing was due there, as was foreseen."""
        self._decided = self._at = step

    def midstep(self, step: int) -> Stop | None:
        """Whether to stop on the way from `step` to the next; may be asked at any moments, and decides nothing else."""
        notice = self._stop
        if notice is None:
            return None
        if self._ranks.world == 1:  # asked three times a step by a trainer: nothing is made for it
            return notice(step, within=True)
        found = self._agree(step, lambda: notice(step, within=True) or False)
        return found if isinstance(found, Stop) else None

    def alike(self, step: int, own: Callable[[], Plan]) -> Plan:
        """Rank 0's own plan for `step`, on all ranks, of which each has to ask."""
        if self._ranks.world == 1:
            return own()
        found = self._agreement.decide(step, lambda: asdict(own()))
        return plan_of(found) if isinstance(found, dict) else own()

    def at_epoch_end(self, epoch: int, step: int | None, metrics: Mapping[str, Any] | None) -> int | None:
        """The step to save after `epoch` completed epochs, None if none is due or it is saved already."""
        at = self._at if step is None else step
        if at is None:
            raise ValueError("epoch_end() does not know the step yet: pass step=, or call step() before")
        self._miss(epoch, metrics)
        due = bool(self._agree(at, lambda: self._own_at_epoch_end(epoch, at, metrics)))
        return at if due and at != self._saved else None

    def _own_at_epoch_end(self, epoch: int, at: int, metrics: Mapping[str, Any] | None) -> bool:
        self._look_at_saves()
        return self._decider.at_epoch_end(epoch, at, self._watched(metrics))

    def _miss(self, epoch: int, metrics: Mapping[str, Any] | None) -> None:
        """Tell once that an epoch was measured, and not by the metric that decides: it may be called otherwise."""
        monitor = None if self._monitor is None else self._monitor[0]
        if monitor is None or not metrics or monitor in metrics or self._has_missed or self._ranks.rank:
            return
        self._has_missed = True
        logger.warning(
            "epoch %d has no %s, which decides what is best; it has %s", epoch, monitor, ", ".join(map(str, metrics))
        )

    def by_hand(self, step: int) -> None:
        """The user saves `step`, whatever is due."""
        self._decided = self._by_hand = self._at = step

    def saving(self, step: int) -> None:
        """A save of `step` begins on all ranks; on one of them it may still raise, and that one must count it too."""
        if self._ranks.world > 1:
            self._saved = step

    def saved(self, handle: SaveHandle, metrics: Mapping[str, float]) -> None:
        """A save was made, with `metrics`: what comes must be better than those, unless it comes to nothing."""
        self._decider.seen(metrics)
        if self._decider.policy.on_best:
            self._under_way.append((handle, metrics))
        is_skipped = handle.status == "skipped"
        if not is_skipped:
            self._decider.saved()
            self._saved = handle.step

    def _look_at_saves(self) -> None:
        """What was the best and is not there, since nothing came of its save, need not be beaten by what comes."""
        before, self._under_way = self._under_way, []
        is_lost = False
        for handle, metrics in before:
            if not handle.done():  # asked once: it may end right now
                self._under_way.append((handle, metrics))
            elif handle.status == "durable":
                self._decider.kept(metrics)
            else:
                is_lost = True
        if is_lost:
            self._decider.lost(metrics for _, metrics in self._under_way)

    def told(self, metrics: Mapping[str, float]) -> None:
        """An earlier checkpoint turns out to have `metrics`: what comes must be better than those."""
        self._decider.kept(metrics)

    def restored(self, step: int, metrics: Mapping[str, float]) -> None:
        """The training goes on from the checkpoint of `step` with `metrics`, and may come to steps it has decided on
        before. Where that step was the last of an epoch, the end of the epoch comes next.
        """
        self._decider.kept(metrics)
        self._decided, self._saved, self._at = None, None, step

    def _watched(self, metrics: Mapping[str, Any] | None) -> dict[str, float]:
        return numbers(metrics, self._monitor, every=False) if self._decider.policy.on_best else {}

    def _agree(self, step: int, decide: Callable[[], bool | Stop]) -> bool | Stop:
        """This rank's own decision where all ranks decide alike, else rank 0's."""
        if self._ranks.world == 1 or (self._stop is None and self._decider.policy.alike_on_all_ranks):
            return decide()

        def said() -> Due:
            found = decide()
            return found.json() if isinstance(found, Stop) else found

        due = self._agreement.decide(step, said)
        return stop_of(due) if isinstance(due, dict) else due


def numbers(metrics: Mapping[str, Any] | None, monitor: Monitor | None, *, every: bool) -> dict[str, float]:
    """Metrics as floats: all that cost nothing to read with `every`, else the monitored one alone.

    A tensor on a device is read only if it is the monitored one: reading waits for the device.
    """
    found: dict[str, float] = {}
    for name, value in (metrics or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"metrics have a name that is not a string: {name!r}")
        watched = monitor is not None and name == monitor[0]
        if watched or (every and not (isinstance(value, Tensor) and value.device.type != "cpu")):
            found[name] = _number(name, value)
    return found


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value.detach().item())
    if isinstance(value, abstract.Real):
        return float(value)
    raise TypeError(f"metric {name!r} is {value!r}: give a number, or a tensor with one element")
