"""Beginning: what has to happen once before the first save, most of it before that save is due.

Once it is known what a save will hold, the run is looked at, threads are started, the state is planned and the arenas
are faulted in, so that the first save costs what later ones do. That is known once the optimizers have their state:
after a first step that is not saved, after a resume, before an optimizer's second step where the loop says nothing
meanwhile, or from the start where they have it then. A state that has grown since is prepared anew. After a resume the
arenas are left for after the first step, which somebody waits for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from torch.optim.optimizer import Optimizer

from asyncckpt.checkpoints.listing import Listing
from asyncckpt.distributed.coordinator import refuse_late_group
from asyncckpt.errors import AsyncCkptError
from asyncckpt.saves.admission import Admission
from asyncckpt.saves.saving import Saver
from asyncckpt.staging.rounds import Rounds
from asyncckpt.worker.commitlog.ownership import exists
from asyncckpt.worker.ranks import Ranks

logger = logging.getLogger("asyncckpt")

UNSEEN = 8
"""Steps after which an optimizer without state is taken for one that has none: a compiled step runs no hooks."""


class Beginning:
    """The beginning of one training at `url`, with these `optimizers`; with `overwrite`, in place of an earlier one."""

    def __init__(
        self,
        url: str,
        listing: Callable[[], Future[Listing]],
        saver: Saver,
        ranks: Ranks,
        admission: Admission,
        optimizers: Sequence[Optimizer],
        *,
        overwrite: bool,
    ) -> None:
        self._url = url
        self._listing = listing
        self._saver = saver
        self._ranks = ranks
        self._admission = admission
        self._optimizers = optimizers
        self._rounds = Rounds(optimizers, self._round_is_complete)
        # With overwrite=True nothing there matters, and no store is waited for that hangs.
        self._is_begun = overwrite or ranks.rank != 0
        self._look: Future[Listing] | None = None
        self._prepared: tuple[int, ...] | None = None
        """For how many parameters the optimizers held state when it was planned last."""
        self._calls = self._next = 0
        self._is_faulted = True
        """Whether nothing of what was prepared is still to be faulted in."""

    def constructed(self) -> None:
        """Where the optimizers have their state already, training goes on from somewhere, and a save will come."""
        if self._optimizers and all(self._held()):
            self._quietly(self._plan)

    def prepare(self) -> None:
        """After a step that is not saved; raises `UnsupportedState` for what cannot be held.

        Does nothing where the state is prepared as it is now, or where it is not known yet what it will be.
        """
        self._calls += 1
        if not self._is_faulted:
            self._fault()
        held = self._held()
        if not self._is_known(held):
            return
        if not self._is_begun and self._look is None:
            with suppress(RuntimeError):  # no thread to be had: the save that needs it will say so
                self._look = self._listing()
        # A state that goes on growing is not planned anew at every step: that takes a while for many tensors.
        if held != self._prepared and self._calls >= self._next:
            self._next = 2 * self._calls
            self._plan()

    def passed(self, steps: int) -> None:
        """So many steps were made at which nothing was asked for."""
        self._calls += steps

    @property
    def is_prepared(self) -> bool:
        """Whether the next save finds everything ready, and no optimizer is still to get its state."""
        held = self._held()
        is_planned = held == self._prepared and all(held)
        return is_planned and self._is_faulted and (self._is_begun or self._look is not None)

    def _plan(self) -> None:
        held = self._held()
        self._saver.prepare()
        self._prepared = held
        self._fault()

    def _fault(self) -> None:
        self._saver.fault()
        self._is_faulted = True

    def _round_is_complete(self) -> None:
        if self._prepared is None or not self._is_faulted:
            self._quietly(self.prepare)

    def _quietly(self, prepare: Callable[[], None]) -> None:
        """Nobody has asked for it, so nobody is told here what is wrong with the state."""
        try:
            prepare()
        except Exception as error:  # the user's own state_dict() may raise anything; the save will raise it again
            logger.info("the first save cannot be prepared yet: %r", error)
            self._next = 0

    def _held(self) -> tuple[int, ...]:
        return tuple(len(optimizer.state) for optimizer in self._optimizers)

    def _is_known(self, held: tuple[int, ...]) -> bool:
        return not held or any(held) or self._rounds.has_begun or self._calls >= UNSEEN

    def resumed(self) -> None:
        """The training goes on from what the run holds."""
        self._is_begun = True

    def returned(self) -> None:
        """The state is that of a checkpoint; raises `UnsupportedState` for what cannot be held."""
        self._calls += 1
        self._next, held = 2 * self._calls, self._held()
        self._saver.prepare()
        self._prepared, self._is_faulted = held, False

    def check(self) -> None:
        """Before every save: raises `CheckpointDirectoryExistsError` beside an earlier training that nobody resumed.

        What was found when the first step was made is good enough: whoever came later is met by the save itself.
        """
        self._rounds.close()
        self._prepared = self._held()  # the save plans what there is now
        refuse_late_group(self._ranks)
        if self._is_begun:
            return
        look, self._look = self._look or self._listing(), None
        try:
            held = len(look.result().checkpoints)
        except AsyncCkptError as error:
            self._admission.unreachable(error)
            return  # the save itself will meet it, and say so on its handle
        if held:
            raise exists(self._url, held)
        self._is_begun = True

    def close(self) -> None:
        """Nothing is to be prepared any more."""
        self._rounds.close()
