"""Restorer: brings a training's objects back to a checkpoint, on all its ranks or on none.

A resume has taken the run before anything is chosen, and goes back past what is damaged. A restore only reads, and
follows a writer that overtakes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

from asyncckpt.checkpoints.catalog import ATTEMPTS
from asyncckpt.checkpoints.listing import CheckpointInfo, Listing, Which, which_of
from asyncckpt.checkpoints.marking import damage_of
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.distributed.counts import Counts
from asyncckpt.errors import (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    IncompatibleState,
    RestoreError,
    StorageError,
    TransientError,
)
from asyncckpt.events import HOME, Damaged, Listeners, Restored
from asyncckpt.fetching.progress import Progress
from asyncckpt.format.findings import Finding
from asyncckpt.format.record import Checkpoint
from asyncckpt.restores.consensus import Consensus
from asyncckpt.restores.fitting import Fitted, apply, fit, unclaimed
from asyncckpt.restores.nearest import Nearest
from asyncckpt.restores.restoring import Loaded, failure_told, live_parts, overtaken
from asyncckpt.state.capture import Tree
from asyncckpt.storage.live import check_untouched
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.ranks import Ranks

logger = logging.getLogger("asyncckpt")


class Restorer:
    """Restores into `trees`, by scope; `guard` is called before live objects are changed."""

    def __init__(
        self,
        executor: Executor,
        trees: Mapping[str, Mapping[str, Tree]],
        ranks: Ranks,
        listeners: Listeners,
        counts: Counts,
        guard: Callable[[], None],
        nearest: Nearest,
    ) -> None:
        self._executor = executor
        self._trees = trees
        self._ranks = ranks
        self._listeners = listeners
        self._guard = guard
        self._counts = counts
        self._nearest = nearest
        self._call = 0
        self._half_placed: Checkpoint | None = None
        self.best: CheckpointInfo | None = None
        """The best sound one that was listed at the last resume; on rank 0, which decides by it."""

    def check_whole(self) -> None:
        """Before every save: raises `RestoreError` while the objects hold parts of a checkpoint and no whole one."""
        if self._half_placed is not None:
            raise RestoreError(
                f"restoring the checkpoint of step {self._half_placed.step} ended halfway, and the objects hold parts "
                "of it, which a save would keep: resume() or restore() a sound one before"
            )

    def resume(self, which: Which, *, allow_partial: bool = False, exclude: Collection[str] = ()) -> Loaded | None:
        """Take the run and bring everything back; None on an empty run. Raises as `AsyncCheckpointer.resume` does."""
        which = which_of(which)
        damaged: list[int] = []

        def choose(consensus: Consensus[Fitted]) -> Fitted | None:
            listing = self._taken()
            self.best = next((info for info in listing.infos() if info.is_best and not info.damaged), None)
            return self._sound(consensus, listing, which, damaged, allow_partial=allow_partial)

        def go_on(loaded: Loaded) -> None:
            # Only rank 0's does anything; last, since the next start goes on from here as well.
            seq, verified = loaded.checkpoint.seq, loaded.verified
            if self._nearest.is_unsound(loaded.checkpoint, HOME):
                damaged.append(seq)
            self._executor.go_on(seq, damaged, named=which != "latest", verified=verified)

        self._counts.begin_anew()
        parts = f", exclude={sorted(exclude)}" if exclude else ""
        call = f"resume(which={which!r}{', allow_partial=True' if allow_partial else ''}{parts})"
        loaded = self._agreed(
            call,
            choose,
            go_on,
            counts=self._counts,
            strict=True,
            ahead=False,
            allow_partial=allow_partial,
            exclude=exclude,
        )
        if loaded is not None and loaded.checkpoint.partial:
            logger.warning(
                "the checkpoint of step %d is partial: it holds no %s, and what this training has of that goes on as "
                "it is",
                *(loaded.checkpoint.step, " and no ".join(loaded.checkpoint.partial)),
            )
        if loaded is not None and (left := unclaimed(loaded, self._trees)):
            logger.warning(
                "the checkpoint of step %d holds what this training was not given, and will not be in its next one: %s",
                loaded.checkpoint.step,
                ", ".join(left),
            )
        return loaded

    def _taken(self) -> Listing:
        try:
            return self._executor.resume()
        except TransientError as error:
            if self._nearest.is_layered:
                error.add_note(
                    "Whose the run is only the root can tell, so nothing was resumed from the local tier: that may be "
                    "a branch which another machine has left behind. restore() reads what is there, and takes nothing."
                )
            raise

    def restore(self, which: Which, *, strict: bool, only: Collection[str] | None, exclude: Collection[str]) -> Loaded:
        """Bring the named checkpoint back; raises as `AsyncCheckpointer.restore` does."""
        which = which_of(which)
        parts = f"strict={strict}, only={None if only is None else sorted(only)}, exclude={sorted(exclude)}"
        loaded = self._agreed(
            f"restore({which!r}, {parts})",
            lambda consensus: self._named(consensus, which),
            lambda loaded: None,
            strict=strict,
            only=only,
            exclude=exclude,
        )
        if loaded is None:  # rank 0 proposes until one stands, or raises
            raise CheckpointNotFoundError(f"no checkpoint {which!r}: rank 0 found none")
        return loaded

    def _agreed(
        self,
        call: str,
        choose: Callable[[Consensus[Fitted]], Fitted | None],
        finish: Callable[[Loaded], None],
        *,
        counts: Counts | None = None,
        strict: bool,
        ahead: bool = True,
        allow_partial: bool = False,
        only: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> Loaded | None:
        """Read what rank 0 chooses, put it back once every rank has it, and `finish` it once every rank has done so.

        With `ahead` every digest is checked before anything is changed.
        """
        began = time.monotonic()
        check_untouched()
        self._nearest.begin()

        def load(checkpoint: Checkpoint, scopes: list[str]) -> Fitted:
            live = live_parts(self._trees)
            progress = Progress(checkpoint.step, self._listeners)
            loaded = self._executor.read(
                partial(
                    self._nearest.read,
                    checkpoint=checkpoint,
                    scopes=scopes,
                    only=only,
                    exclude=exclude,
                    live=live,
                    ahead=ahead,
                    progress=progress,
                )
            )
            # Before any rank changes anything.
            lacks = checkpoint.partial if allow_partial else ()
            if strict and not allow_partial:
                _check_whole(checkpoint, only, exclude)
            return fit(loaded, self._trees, strict=strict, only=only, exclude=(*exclude, *lacks))

        consensus = Consensus(self._ranks, self._call, call, load, partial(self._place_from_any, load))
        try:
            with failure_told(self._listeners), consensus.under_way(counts):
                fitted = choose(consensus) if consensus.is_led_here else consensus.follow()
                if fitted is None:
                    return None
                self._placed(fitted.loaded, time.monotonic() - began)
                consensus.finish(lambda: finish(fitted.loaded))
                return fitted.loaded
        finally:
            self._call = consensus.number

    def _placed(self, loaded: Loaded, seconds: float) -> None:
        """On all ranks."""
        self._half_placed = None
        self._nearest.settled(loaded)
        self._listeners.emit(
            Restored(loaded.checkpoint.step, loaded.checkpoint.seq, loaded.bytes, seconds, loaded.tier)
        )

    def _place_from_any(self, load: Callable[[Checkpoint, list[str]], Fitted], fitted: Fitted) -> Fitted:
        """Put it back, from the next tier where its own cannot be read any more; returns what was put."""
        try:
            self._place(fitted)
        except StorageError as error:
            # Of the same checkpoint, everything: how much of that was put back nobody knows.
            if not self._nearest.pass_over(fitted.loaded, error):
                raise
            fitted = load(fitted.loaded.checkpoint, [*fitted.loaded.scopes])
            self._place(fitted)
        return fitted

    def _place(self, fitted: Fitted) -> None:
        self._guard()
        self._half_placed = fitted.loaded.checkpoint
        try:
            apply(fitted, self._executor.read)
        except CheckpointCorruptError as error:
            self._nearest.shun(fitted.loaded, error)
            raise

    # -- what rank 0 chooses -------------------------------------------------------------------------------

    def _sound(
        self,
        consensus: Consensus[Fitted],
        listing: Listing,
        which: Which,
        damaged: list[int],
        *,
        allow_partial: bool,
    ) -> Fitted | None:
        """Propose until a checkpoint stands; None on an empty run. What did not stand is in `damaged`.

        Raises `CheckpointCorruptError` if the one named by the user is damaged, or if all are, and `IncompatibleState`
        if there are partial ones only, which nobody asked for.
        """
        for lost in listing.lost.values():
            self._report(None, None, lost, "record")
        chosen = listing.candidates(partial=allow_partial) if which == "latest" else [listing.find(which)]
        if not allow_partial:
            _refuse_partial(listing.checkpoints if which == "latest" and not listing.lost else chosen)
        for checkpoint in chosen:
            try:
                return self._from_any(consensus, checkpoint)
            except CheckpointCorruptError as error:
                self._found(checkpoint, error)
                damaged.append(checkpoint.seq)
                if which != "latest":
                    raise
        if listing.records or listing.lost:
            raise CheckpointCorruptError(
                f"all {len(listing.records) + len(listing.lost)} checkpoints of this run are damaged (see the log): "
                "nothing was restored; repair one from a copy, or start over in another root"
            )
        consensus.give_up()
        return None

    def _from_any(self, consensus: Consensus[Fitted], checkpoint: Checkpoint) -> Fitted:
        """Propose a checkpoint, again where a copy of it was found damaged late and another tier may have a sound one.

        Raises what was found at home.
        """
        for _ in range(self._nearest.tries):
            with suppress(CheckpointCorruptError):
                return consensus.propose(checkpoint)
        return consensus.propose(checkpoint)

    def _report(self, step: int | None, seq: int | None, error: CheckpointCorruptError, kind: str) -> None:
        self._listeners.emit(Damaged(step, seq, str(error), kind))

    def _found(self, checkpoint: Checkpoint, error: CheckpointCorruptError) -> None:
        """In the root: whoever comes next is to know it too."""
        self._report(checkpoint.step, checkpoint.seq, error, error.kind)
        self._executor.damaged(HOME, Finding.of(checkpoint), damage_of(error, SYSTEM_CLOCK))

    def _named(self, consensus: Consensus[Fitted], which: Which) -> Fitted:
        """Propose what `which` names, again and again where retention of another process takes it away meanwhile."""
        for _ in range(ATTEMPTS):
            with self._executor.held(partial(self._nearest.named, which=which)) as checkpoint:
                try:
                    return self._from_any(consensus, checkpoint)
                except CheckpointCorruptError as error:
                    self._found(checkpoint, error)
                    raise
                except CheckpointNotFoundError as error:
                    if which not in ("latest", "best"):
                        raise self._nearest.damage(checkpoint) or error from None
        raise overtaken(which)


def _check_whole(checkpoint: Checkpoint, only: Collection[str] | None, exclude: Collection[str]) -> None:
    """Raise `IncompatibleState` if a partial checkpoint lacks what is asked of it."""
    asked = [part for part in checkpoint.partial if part not in exclude and (only is None or part in only)]
    if asked:
        raise IncompatibleState(
            f"the checkpoint of step {checkpoint.step} is partial: it holds no {' and no '.join(asked)}; name what it "
            'has with only=("model",), or take what there is with strict=False'
        )


def _refuse_partial(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise `IncompatibleState` where all there is to take is partial: to start over would be worse."""
    if checkpoints and all(checkpoint.partial for checkpoint in checkpoints):
        newest = checkpoints[-1]
        raise IncompatibleState(
            f"the checkpoint of step {newest.step} is partial: it holds no {' and no '.join(newest.partial)}. "
            f"resume(allow_partial=True) takes it and leaves those as they are; restore({f'{newest.seq:08d}'!r}, "
            'only=("model",)) takes parts of it'
        )
