"""AsyncCheckpointer: what a training loop talks to. It passes calls on to its parts, and holds no logic of its own.

Constructing it, restoring and listing only read. ``resume()`` or the first save takes the run. What the parts are made
from is in `asyncckpt.construction.blueprint`, and what each of them needs in `asyncckpt.construction.assembling`.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, NoReturn

from asyncckpt.arguments import check_choices, check_emergency, several, whole
from asyncckpt.budget import Budget
from asyncckpt.checkpoints.listing import CheckpointInfo, Listing, Which
from asyncckpt.construction.assembling import assembled
from asyncckpt.construction.blueprint import Blueprint
from asyncckpt.construction.executing import Wanted
from asyncckpt.construction.options import Options
from asyncckpt.errors import CheckpointerClosed, CheckpointNotFoundError, SaveFailed
from asyncckpt.events import Listener
from asyncckpt.health import Health
from asyncckpt.lifecycle import living
from asyncckpt.lifecycle.belonging import Root, Run, belonging
from asyncckpt.metrics import MetricsConfig
from asyncckpt.policy import SavePolicy
from asyncckpt.preemption import Preemption
from asyncckpt.preemption.stop import Stop
from asyncckpt.profile import Profile
from asyncckpt.retention import Monitor, PrunePlan, RetentionPolicy
from asyncckpt.saves.deciding import numbers
from asyncckpt.saves.handle import SaveHandle
from asyncckpt.saves.saving import OnBusy, Verify
from asyncckpt.state.training_state import TrainingState

logger = logging.getLogger("asyncckpt")


class AsyncCheckpointer:
    """Saves what it was given, in the background, into `root` (a path, a URL or a `Run`), and brings it back.

    `model`, `optimizer`, `scheduler`, `scaler`, `dataloader` and `extra` are one object each, a list, or a mapping
    of names; random state is always saved with them. ``save`` says when `step` saves by itself, ``keep`` what
    stays, ``monitor`` which metric is best ("min" or "max").

    Behaviour: `on_busy` (what a periodic save does when both generations are in use), `on_failure`, `verify`,
    `overwrite`, `listeners`, `metrics` (a port, or a `MetricsConfig`). Performance: `budget` (bytes of staging memory,
    or a `Budget` of memory, stall and slowdown), `generations`. `executor` says where saves are written: in a
    ``"process"`` that survives this one (or a `ProcessConfig`), in a ``"thread"``, or in a process where that is worth
    it. `close_timeout` is in seconds. `storage_options` are those of fsspec's file system for the root's scheme, and
    ``backend``: see `asyncckpt.storage.from_url`.
    `local` is a folder on a nearer disk, where every save is committed first, and from there it is copied to the root,
    which holds nothing up by that; a resume there reads it, and brings to the root what that did not get; all ranks
    share it. `mirror` is a second root that every checkpoint is copied to after it is durable; it never holds a
    save up.
    """

    def __init__(
        self,
        root: Root | Run,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        scaler: object = None,
        dataloader: object = None,
        extra: Mapping[str, object] | None = None,
        save: SavePolicy | None = None,
        keep: RetentionPolicy | None = None,
        monitor: Monitor | None = None,
        on_busy: OnBusy = "coalesce",
        on_failure: Literal["warn", "raise"] = "warn",
        budget: int | Budget | None = None,
        generations: int = 2,
        executor: Wanted = "auto",
        metrics: int | MetricsConfig | None = None,
        listeners: Iterable[Listener] = (),
        storage_options: Mapping[str, Any] | None = None,
        local: Root | None = None,
        mirror: Root | None = None,
        preemption: Preemption | None = None,
        verify: Verify = "sample",
        overwrite: bool = False,
        close_timeout: float = 600,
    ) -> None:
        self._process = os.getpid()
        self._closed = self._has_ended = False
        self.may_stop = False
        """Whether `midstep` has anything to ask: there was notice, or other ranks may have had it."""
        belongs = belonging(root, storage_options, listeners, overwrite=overwrite)
        asked = Options(
            root=belongs.root,
            save=save,
            keep=keep,
            monitor=monitor,
            on_busy=on_busy,
            on_failure=on_failure,
            budget=budget,
            generations=generations,
            executor=executor,
            metrics=metrics,
            listeners=belongs.listeners,
            storage_options=belongs.options,
            local=local,
            mirror=mirror,
            preemption=preemption,
            verify=verify,
            overwrite=belongs.overwrite,
            run=belongs.run,
            close_timeout=close_timeout,
        )
        objects = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
            "dataloader": dataloader,
            "extra": extra,
        }
        self._be(asked, Blueprint(asked, objects))
        if asked.run is not None:
            asked.run.begin_with(objects)

    def _be(self, asked: Options, plan: Blueprint) -> None:
        self._asked = asked
        self._storage = plan.home
        self._exporter = plan.exporter
        self._stopping = plan.stopping
        self._cadence = plan.cadence
        self._profiler = plan.profiler
        self._succeed()
        parts = assembled(plan)
        self._decision = parts.decision
        self._executor = parts.executor
        self._saver = parts.saver
        self._saver.owner = self
        self._beginning = parts.beginning
        self._asking = parts.asking
        self._returning = parts.returning
        self._ending = parts.ending
        self._checkup = parts.checkup
        self._lull = parts.lull
        self._stopping.warn(self)

    def _succeed(self) -> None:
        """Be the one of its root in this process, and be scraped: a former one may have had the port."""
        living.replace(self._storage.url, self)
        if self._exporter is not None:
            self._exporter.serve()

    # -- saving --------------------------------------------------------------------------------------------

    def step(
        self, step: int, *, epoch: int | None = None, metrics: Mapping[str, Any] | None = None
    ) -> SaveHandle | None:
        """Say that optimizer step `step` is complete; saves if that is due and returns the handle, else None.

        Decides once per step number. Raises `UnsupportedState`, and with ``on_failure="raise"`` an earlier save's
        `SaveFailed`, once what is due now is under way. With `preemption`, once there was notice: saves what there is
        time for, and raises `Preempted`.
        """
        if not self.may_stop and self._lull.passes(step):
            return None
        self._wake()
        step = whole("step", step)
        self._saver.rhythm.told(step)
        self._cadence.step(step)
        due = self._decision.at_step(step, metrics)
        if isinstance(due, Stop):
            return self._stopping.act(step, due, functools.partial(self._asking.save_now, step, epoch, metrics))
        if not due:
            self._asking.nothing()
            self._lull.begin(step)
            return None
        return self._asking.save(step, epoch, metrics, replaceable=True, on_busy=self._asked.on_busy)

    def midstep(
        self, step: int, *, epoch: int | None = None, metrics: Mapping[str, Any] | None = None
    ) -> SaveHandle | None:
        """Say that the state is whole, on the way from `step` completed steps to the next: nothing but notice counts.

        With `preemption`, once there was notice, it does as `step` does, and what is saved takes the place of what was
        saved of that step before. For loops that can go on from there, in a part of a step or a validation. With
        several ranks all have to call it, at the same moments; as long as `may_stop` is False it may be left out.
        """
        self._check_open()
        step = whole("step", step)
        if not self.may_stop:
            return None
        self._lull.end()
        stop = self._decision.midstep(step)
        if stop is None:
            return None
        return self._stopping.act(step, stop, functools.partial(self._asking.save_now, step, epoch, metrics))

    def epoch_end(
        self, epoch: int, *, step: int | None = None, metrics: Mapping[str, Any] | None = None
    ) -> SaveHandle | None:
        """Say that `epoch` epochs are complete; ``every_epochs`` fires here and only here.

        `step` defaults to the last one given to `step`, or that of the checkpoint that training goes on from. If that
        step was saved already, that save counts.
        """
        self._wake()
        epoch, step = whole("epoch", epoch), None if step is None else whole("step", step)
        at = self._decision.at_epoch_end(epoch, step, metrics)
        if at is None:
            self._asking.nothing()
            return None
        return self._asking.save(at, epoch, metrics, replaceable=True, on_busy=self._asked.on_busy)

    def save(
        self,
        step: int,
        *,
        epoch: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        on_busy: OnBusy | None = None,
        emergency: bool = False,
        deadline: float | None = None,
    ) -> SaveHandle:
        """Snapshot the state now, whatever the policy says; never skipped or superseded unless `on_busy` says so.

        Raises `UnsupportedState` for what cannot be held, and `CheckpointDirectoryExistsError` for a first save
        over an earlier training. Everything else is on the handle.

        An `emergency` goes as fast as it can, nothing takes its place, and what can be done later is left undone.
        `deadline` (seconds) is when its handle's ``wait`` raises `PreemptionTimeoutError`; what there is no time for
        beside it gives way: saves that are under way, and parts of the state (see `CheckpointInfo.partial`).
        """
        self._wake()
        step = whole("step", step)
        if emergency or deadline is not None:
            check_emergency(deadline, emergency=emergency, on_busy=on_busy)
            urgency = self._stopping.urgency(step, deadline, self._decision.alike)
            return self._asking.save_now(step, epoch, metrics, urgency)
        self._decision.by_hand(step)
        check_choices(on_busy=on_busy or "wait")
        return self._asking.save(step, epoch, metrics, replaceable=on_busy == "coalesce", on_busy=on_busy or "wait")

    def before_mutation(self) -> None:
        """Call before changing saved tensors outside of a registered optimizer: returns once they are copied."""
        self._saver.stager.guard()

    def record(self, step: int, metrics: Mapping[str, Any]) -> Future[None]:
        """Attach metrics that arrive late to the checkpoint of `step`, saved or on its way; returns at once.

        Which checkpoint is best is decided again; nothing else is written anew. The future raises what went wrong
        (`CheckpointNotFoundError` where no checkpoint of that step is listed), which is in the log too. It is done
        after what the root is at work on, however long that takes; `wait` and `close` wait for it as long as they wait
        for saves. With several ranks, rank 0's call is the one that counts.
        """
        self._check_open()
        values = numbers(metrics, self._asked.monitor, every=True)
        self._decision.told(values)
        return self._ending.late.add(whole("step", step), values)

    @property
    def should_stop(self) -> bool:
        """Whether there was notice that the process will be killed, with ``Preemption(exit="flag")``, at a step.

        All ranks see it after the same step.
        """
        return self._stopping.should_stop

    # -- restoring -----------------------------------------------------------------------------------------

    def resume(
        self, *, which: Which = "latest", allow_partial: bool = False, exclude: Collection[str] = ()
    ) -> TrainingState | None:
        """Take the run and restore everything in place, random state last; None on an empty root.

        The latest is, where a `Run` was given, what its configuration names. Parts that `exclude` names ("optimizer")
        stay as they are, so that a training goes on with others; checkpoints have them again from the next save on.
        A damaged checkpoint is reported and the one before it taken; one that is named raises. With `allow_partial` one
        that lacks parts of the state is taken where it is newer: what it lacks stays as it is. Raises
        `CheckpointCorruptError`, `IncompatibleState`, `CheckpointNotFoundError`, and `StorageError` for a root that
        cannot be read: never a silent start from nothing. Where it raises when objects were changed already, saves are
        refused until a resume or restore has come to its end.
        """
        self._wake()
        return self._returning.resume(self, which, allow_partial=allow_partial, exclude=several(exclude))

    def restore(
        self,
        which: Which = "latest",
        *,
        strict: bool = True,
        only: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> TrainingState:
        """Restore a named checkpoint in place, without taking the run; `only` and `exclude` name parts ("model").

        With several ranks all have to call it, as with `resume`: they get the same one. Raises
        `CheckpointNotFoundError`, `CheckpointCorruptError` or `IncompatibleState`; then nothing was changed, unless an
        object refused its part, or its file was damaged since it was checked: then saves are refused until a restore
        has come to its end. Where another rank failed, it is `RestoreError` that says so.
        """
        self._wake()
        only = None if only is None else several(only)
        return self._returning.restore(self, which, strict=strict, only=only, exclude=several(exclude))

    # -- the catalog ---------------------------------------------------------------------------------------

    def checkpoints(self) -> list[CheckpointInfo]:
        """Every listed checkpoint, oldest first."""
        return self._listing().infos()

    def latest(self) -> CheckpointInfo | None:
        """The latest checkpoint, or None."""
        return self._named("latest")

    def best(self) -> CheckpointInfo | None:
        """The checkpoint with the best monitored metric, or None."""
        return self._named("best")

    def _named(self, which: Which) -> CheckpointInfo | None:
        self._check_open()
        try:
            return self._executor.read(lambda catalog: catalog.named(which))[1]
        except CheckpointNotFoundError:
            return None

    def _listing(self) -> Listing:
        self._check_open()
        return self._executor.listing().result()

    def prune(self, *, dry_run: bool = False, timeout: float | None = None) -> PrunePlan:
        """Apply ``keep=`` now instead of at the next save; with `dry_run` only say what that would do, and why.

        Takes the run as a save does; with several ranks, rank 0's call is the one that counts. Waits for what the root
        is at work on, `timeout` seconds at most: then it raises `TimeoutError`, and is done once the root comes to it.
        """
        self._check_open()
        return self._ending.answer(self._executor.prune(dry_run=dry_run), timeout)

    @property
    def metrics_port(self) -> int | None:
        """Where the metrics are served, or None."""
        return self._exporter.port if self._exporter else None

    def health(self, *, within: float = 0.0) -> Health:
        """Whether checkpoints come as they should; holds nothing up.

        Each call begins a look at the store, and tells what the last one has found; with `within` it waits for that,
        so many seconds at most. It starts nothing that saves: where saves run in a thread, the store is looked at once
        there is that thread.
        """
        self._check_open()
        return self._checkup.health(within)

    def profile(self) -> Profile:
        """Where the time of the recent saves went."""
        return self._profiler.profile()

    # -- the end -------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> None:
        """Wait until every save is durable and retention has run.

        Raises `TimeoutError` after `timeout` seconds, and `SaveFailed` for failures that nobody was told of.
        """
        self._check_process()
        self._lull.end()
        self._ending.wait(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Wait for everything (`close_timeout` where `timeout` is None), then let go; a second call does nothing.

        After an interrupt it goes on waiting. Raises `SaveFailed` for failures not told yet, and for saves that were
        left unfinished.
        """
        if self._has_ended or os.getpid() != self._process:
            return
        self._lull.end()
        self._closed = True  # it takes nothing more; what it has is not given up by an interrupt
        self._beginning.close()
        failed = self._ending.close(self._asked.close_timeout if timeout is None else timeout)
        living.forget(self._storage.url, self)
        self._has_ended = True
        self._stopping.pass_on()
        if failed:
            raise failed

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"the checkpointer of {self._storage.url} cannot be copied or pickled: keep it out of what is")

    def __enter__(self) -> AsyncCheckpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except SaveFailed as failure:  # must not take the place of the exception in flight
            logger.error("%s", failure)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise CheckpointerClosed("this checkpointer belongs to the process that was forked; make one here")

    def _wake(self) -> None:
        """Before whatever may change what is due."""
        self._check_open()
        self._lull.end()

    def _check_open(self) -> None:
        if self._closed:
            raise CheckpointerClosed(f"the checkpointer of {self._storage.url} is closed")
        self._check_process()
