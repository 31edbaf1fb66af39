"""Returning: going back to a checkpoint: what has to end before, and who hears of it after."""

from __future__ import annotations

from collections.abc import Collection

from asyncckpt.checkpoints.listing import Which, info_of
from asyncckpt.distributed.coordinator import refuse_late_group
from asyncckpt.errors import PreemptionTimeoutError
from asyncckpt.events import Listeners, Resumed
from asyncckpt.lifecycle import living
from asyncckpt.lifecycle.beginning import Beginning
from asyncckpt.lifecycle.belonging import Run
from asyncckpt.lifecycle.stopping import Stopping
from asyncckpt.restores.restorer import Restorer
from asyncckpt.restores.restoring import Loaded
from asyncckpt.saves.cadence import Cadence
from asyncckpt.saves.deciding import Decision
from asyncckpt.saves.handle import wait_all
from asyncckpt.saves.saving import Saver
from asyncckpt.state.training_state import TrainingState, training_state
from asyncckpt.worker.ranks import Ranks


class Returning:
    """Brings the training of one checkpointer back, and tells its parts."""

    def __init__(
        self,
        restorer: Restorer,
        saver: Saver,
        ranks: Ranks,
        beginning: Beginning,
        decision: Decision,
        cadence: Cadence,
        stopping: Stopping,
        listeners: Listeners,
        run: Run | None,
    ) -> None:
        self._restorer = restorer
        self._saver = saver
        self._ranks = ranks
        self._beginning = beginning
        self._decision = decision
        self._cadence = cadence
        self._stopping = stopping
        self._listeners = listeners
        self._run = run

    def resume(
        self, owner: living.Closable, which: Which, *, allow_partial: bool, exclude: Collection[str]
    ) -> TrainingState | None:
        """Take the run for `owner`, and go on from there; raises as `AsyncCheckpointer.resume` does."""
        refuse_late_group(self._ranks)
        self._saver.settle()
        # A save of the branch that is left here must not commit after this.
        if left := wait_all(self._saver.handles, self._stopping.waiting(None)):
            steps = [handle.step for handle in left]
            raise PreemptionTimeoutError(f"this process will be killed, and steps {steps} are still under way")
        if which == "latest" and self._run is not None:
            which = self._run.chosen()
        loaded = self._restorer.resume(which, allow_partial=allow_partial, exclude=exclude)
        self._beginning.resumed()  # only now: a resume that failed must not open the way for saves beside the old ones
        if loaded is None:
            return None
        if self._run is not None:
            self._run.resumed()
        state = self._restored(owner, loaded)
        if self._restorer.best is not None:  # the latest need not be the best
            self._decision.told(self._restorer.best.metrics)
        self._stopping.resumed()
        self._listeners.emit(Resumed(state.step, loaded.checkpoint.seq, state.timestamp))
        self._beginning.returned()
        return state

    def restore(
        self,
        owner: living.Closable,
        which: Which,
        *,
        strict: bool,
        only: Collection[str] | None,
        exclude: Collection[str],
    ) -> TrainingState:
        """Go back to a named checkpoint; raises as `AsyncCheckpointer.restore` does."""
        return self._restored(owner, self._restorer.restore(which, strict=strict, only=only, exclude=exclude))

    def _restored(self, owner: living.Closable, loaded: Loaded) -> TrainingState:
        self._decision.restored(loaded.checkpoint.step, loaded.checkpoint.metrics)
        self._cadence.restored()
        living.note_restored(owner)
        return training_state(info_of(loaded.checkpoint), loaded.state)
