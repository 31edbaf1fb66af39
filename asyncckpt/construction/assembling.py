"""Assembling: the parts of one checkpointer, each made with those that it needs. Nothing here can fail.

It must not: the ranks count the checkpointers that they have made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch.optim.optimizer import Optimizer

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.construction import executing
from asyncckpt.construction.blueprint import Blueprint
from asyncckpt.construction.tracked import optimizers, saved_here
from asyncckpt.distributed.counts import Counts
from asyncckpt.events import LOCAL
from asyncckpt.health import Checkup
from asyncckpt.lifecycle.asking import Asking
from asyncckpt.lifecycle.beginning import Beginning
from asyncckpt.lifecycle.ending import Ending
from asyncckpt.lifecycle.late import LateMetrics
from asyncckpt.lifecycle.lull import Lull
from asyncckpt.lifecycle.returning import Returning
from asyncckpt.restores.nearest import Nearest
from asyncckpt.restores.restorer import Restorer
from asyncckpt.revision import Lookup
from asyncckpt.saves.admission import Admission
from asyncckpt.saves.deciding import Decision
from asyncckpt.saves.saving import Saver
from asyncckpt.state.capture import Capture
from asyncckpt.storage.choosing import import_ahead
from asyncckpt.storage.live import bounded_live
from asyncckpt.worker.executor import Executor, ThreadExecutor
from asyncckpt.worker.ranks import Ranks
from asyncckpt.worker.sharing import Sharing


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpointer passes its calls on to."""

    decision: Decision
    executor: Executor
    saver: Saver
    beginning: Beginning
    asking: Asking
    returning: Returning
    ending: Ending
    checkup: Checkup
    lull: Lull


def assembled(plan: Blueprint) -> Parts:
    """The parts that `plan` is of, at work."""
    ranks, counts = plan.here.ranks(plan.alike()), Counts()
    admission = Admission(plan.home, plan.listeners, plan.service.beside)
    decision = _decision(plan, ranks, counts)
    service = replace(plan.service, code_version=_code(plan, ranks))
    executor = executing.made(plan.asked.executor, plan.size, plan.home, service, plan.listeners, plan.clock, ranks)
    for storage in filter(None, (plan.home, plan.local, plan.mirror)):
        # Now: a worker process starts meanwhile, and nothing here has asked a store yet.
        import_ahead(storage, writes=isinstance(executor, ThreadExecutor))
    stepping = optimizers(saved_here(plan.tracked, plan.here))
    saver = _saver(plan, executor, ranks, counts, admission, stepping)
    if plan.exporter is not None:
        plan.exporter.watch(saver.levels)
    beginning = Beginning(
        plan.home.url,
        executor.listing,
        saver,
        ranks,
        admission,
        stepping,
        overwrite=plan.asked.overwrite,
    )
    restorer = Restorer(
        executor, plan.tracked.trees, ranks, plan.listeners, counts, saver.stager.guard, _nearest(plan, executor)
    )
    late = LateMetrics(saver, executor, plan.listeners)
    raises = plan.asked.on_failure == "raise"
    ending = Ending(saver, late, executor, plan.stopping, plan.exporter, raises=raises)
    plan.stopping.begin(saver, executor, ranks)
    beginning.constructed()
    checkup = Checkup(plan.vitals, saver.levels, executor, plan.clock, by_way_of_local=plan.local is not None)
    asking = Asking(saver, decision, beginning, restorer, ending, plan.asked.monitor)
    returning = Returning(
        *(restorer, saver, ranks, beginning, decision, plan.cadence, plan.stopping, plan.listeners, plan.asked.run)
    )
    lull = Lull(plan.clock, decision, saver, plan.cadence, beginning)
    return Parts(decision, executor, saver, beginning, asking, returning, ending, checkup, lull)


def _decision(plan: Blueprint, ranks: Ranks, counts: Counts) -> Decision:
    stop = None if plan.asked.preemption is None else plan.stopping.due
    return Decision(plan.decider, plan.asked.monitor, ranks, counts, stop)


def _saver(
    plan: Blueprint,
    executor: Executor,
    ranks: Ranks,
    counts: Counts,
    admission: Admission,
    stepping: Sequence[Optimizer],
) -> Saver:
    asked = plan.asked
    return Saver(
        Capture(saved_here(plan.tracked, plan.here), plan.tracked.lazy, plan.tracked.guarded),
        executor,
        plan.listeners,
        plan.clock,
        ranks,
        counts,
        admission,
        Sharing(ranks, plan.size_here),
        # The others' shards are small, and they must not stall on what only rank 0 can decide.
        generations=asked.generations if ranks.rank == 0 else asked.generations + 2,
        budget=plan.limits,
        verify=asked.verify,
        fingerprint=plan.fingerprint,
        optimizers=stepping,
        tiers=() if plan.local is None else (LOCAL,),
        message=None if asked.save is None else asked.save.message,
    )


def _code(plan: Blueprint, ranks: Ranks) -> Callable[[], str | None]:
    """Tells the version of the code that trains, for the manifests that rank 0 writes; None where nobody knows."""
    run = plan.asked.run
    if run is None and ranks.rank == 0:
        return Lookup().known
    code = None if run is None else run.code
    return lambda: code


def _nearest(plan: Blueprint, executor: Executor) -> Nearest:
    catalog = partial(Catalog, only_encrypted=plan.service.only_encrypted)
    return Nearest(
        {} if plan.mirror is None else {"mirror": catalog(bounded_live(plan.mirror))},
        plan.listeners,
        executor.damaged,
        nearer={} if plan.local is None else {LOCAL: catalog(plan.local)},
    )
