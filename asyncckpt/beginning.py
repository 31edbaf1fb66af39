"""Beginning: what has to happen once before the first save, most of it before that save is due.

A training that has made its first step has its optimizer state, and a save is to come: then the run is looked at,
threads are started, the state is planned and the arenas are faulted in, so that the first save costs what later
ones do. Where that step has not made it (gradients are accumulated, or were not finite), it is done again once it is
there.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from asyncckpt.admission import Admission
from asyncckpt.distributed.coordinator import refuse_late_group
from asyncckpt.errors import AsyncCkptError
from asyncckpt.listing import Listing
from asyncckpt.saving import Saver
from asyncckpt.staging.arena import GROWN
from asyncckpt.worker.ownership import exists
from asyncckpt.worker.ranks import Ranks


class Beginning:
    """The beginning of one training at `url`; with `overwrite`, in place of an earlier one.

    `optimized` counts the parameters that have optimizer state by now.
    """

    def __init__(
        self,
        url: str,
        listing: Callable[[], Future[Listing]],
        saver: Saver,
        ranks: Ranks,
        admission: Admission,
        optimized: Callable[[], int],
        *,
        overwrite: bool,
    ) -> None:
        self._url = url
        self._listing = listing
        self._saver = saver
        self._ranks = ranks
        self._admission = admission
        self._is_begun = overwrite or ranks.rank != 0
        self._optimized = optimized
        self._prepared_for: int | None = None
        self._look: Future[Listing] | None = None

    def prepare(self) -> None:
        """After the first step or a resume, and again after one that has made optimizer state; else nothing.

        Raises `UnsupportedState` for what cannot be held.
        """
        found, known = self._optimized(), self._prepared_for
        if known is not None and found <= GROWN * known:
            return
        self._prepared_for = found
        if known is None and not self._is_begun:
            with suppress(RuntimeError):  # no thread to be had: the save that needs it will say so
                self._look = self._listing()
        self._saver.prepare()

    def resumed(self) -> None:
        """The training goes on from what the run holds."""
        self._is_begun = True

    def check(self) -> None:
        """Before every save: raises `CheckpointDirectoryExistsError` beside an earlier training that nobody resumed.

        What was found when the first step was made is good enough: whoever came later is met by the save itself.
        """
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
