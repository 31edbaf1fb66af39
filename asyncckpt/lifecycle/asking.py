"""Asking: one save as the loop asks for it: what has to hold before, and who hears of it after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncckpt.arguments import whole
from asyncckpt.lifecycle.beginning import Beginning
from asyncckpt.lifecycle.ending import Ending
from asyncckpt.restores.restorer import Restorer
from asyncckpt.retention import Monitor
from asyncckpt.saves.deciding import Decision, numbers
from asyncckpt.saves.handle import SaveHandle
from asyncckpt.saves.saving import OnBusy, Saver
from asyncckpt.saves.urgency import Urgency


class Asking:
    """Asks `saver` for the saves of one checkpointer."""

    def __init__(
        self,
        saver: Saver,
        decision: Decision,
        beginning: Beginning,
        restorer: Restorer,
        ending: Ending,
        monitor: Monitor | None,
    ) -> None:
        self._saver = saver
        self._decision = decision
        self._beginning = beginning
        self._restorer = restorer
        self._ending = ending
        self._monitor = monitor

    def save(
        self,
        step: int,
        epoch: int | None,
        metrics: Mapping[str, Any] | None,
        *,
        replaceable: bool,
        on_busy: OnBusy,
        urgency: Urgency | None = None,
    ) -> SaveHandle:
        """Snapshot the state now; raises as `AsyncCheckpointer.save` and `AsyncCheckpointer.step` do."""
        self._decision.saving(step)
        with self._saver.turn(step):
            if step < 0:
                raise ValueError(f"step {step} is negative: it counts completed optimizer steps")
            self._beginning.check()
            self._restorer.check_whole()
            values = numbers(metrics, self._monitor, every=True)
            epoch = None if epoch is None else whole("epoch", epoch)
            handle = self._saver.save(step, epoch, values, replaceable=replaceable, on_busy=on_busy, urgency=urgency)
        self._decision.saved(handle, values)
        # Not before: ranks learn of a failure at different steps, and must all the same make the same saves.
        if urgency is None:
            self._ending.check()
        return handle

    def save_now(self, step: int, epoch: int | None, metrics: Mapping[str, Any] | None, urgency: Urgency) -> SaveHandle:
        """Snapshot the state as an emergency; earlier failures hold it up as little as anything else."""
        self._decision.by_hand(step)
        return self.save(step, epoch, metrics, replaceable=False, on_busy="wait", urgency=urgency)

    def nothing(self) -> None:
        """Nothing is to be saved at this step: what is known of the next save can be prepared."""
        self._ending.check()
        self._beginning.prepare()
