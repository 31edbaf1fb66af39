"""Assembling: the parts of one checkpointer, each made with those that it needs. Nothing here can fail.

It must not: the ranks count the checkpointers that they have made.
"""

from __future__ import annotations

from dataclasses import dataclass

from asyncckpt import executing
from asyncckpt.admission import Admission
from asyncckpt.beginning import Beginning
from asyncckpt.blueprint import Blueprint
from asyncckpt.catalog import Catalog
from asyncckpt.deciding import Decision
from asyncckpt.distributed.counts import Counts
from asyncckpt.ending import Ending
from asyncckpt.events import LOCAL
from asyncckpt.late import LateMetrics
from asyncckpt.nearest import Nearest
from asyncckpt.restorer import Restorer
from asyncckpt.saving import Saver
from asyncckpt.state.capture import Capture
from asyncckpt.tracked import optimizers, saved_here
from asyncckpt.worker.executor import Executor
from asyncckpt.worker.ranks import Ranks
from asyncckpt.worker.sharing import Sharing


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpointer passes its calls on to."""

    ranks: Ranks
    decision: Decision
    executor: Executor
    saver: Saver
    beginning: Beginning
    restorer: Restorer
    ending: Ending


def assembled(plan: Blueprint) -> Parts:
    """The parts that `plan` is of, at work."""
    ranks, counts = plan.here.ranks(plan.alike()), Counts()
    admission = Admission(plan.home, plan.listeners)
    decision = _decision(plan, ranks, counts)
    executor = executing.made(
        plan.asked.executor, plan.size, plan.home, plan.service, plan.listeners, plan.clock, ranks
    )
    saver = _saver(plan, executor, ranks, counts, admission)
    if plan.exporter is not None:
        plan.exporter.watch(saver.levels)
    beginning = Beginning(
        plan.home.url,
        executor.listing,
        saver,
        ranks,
        admission,
        optimizers(saved_here(plan.tracked, plan.here)),
        overwrite=plan.asked.overwrite,
    )
    restorer = Restorer(
        executor, plan.tracked.trees, ranks, plan.listeners, counts, saver.stager.guard, _nearest(plan, executor)
    )
    late = LateMetrics(saver, executor, plan.listeners)
    ending = Ending(saver, late, executor, plan.stopping, plan.exporter)
    plan.stopping.begin(saver, executor, ranks)
    beginning.constructed()
    return Parts(ranks, decision, executor, saver, beginning, restorer, ending)


def _decision(plan: Blueprint, ranks: Ranks, counts: Counts) -> Decision:
    stop = None if plan.asked.preemption is None else plan.stopping.due
    return Decision(plan.decider, plan.asked.monitor, ranks, counts, stop)


def _saver(plan: Blueprint, executor: Executor, ranks: Ranks, counts: Counts, admission: Admission) -> Saver:
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
        tiers=() if plan.local is None else (LOCAL,),
        code_version=None if asked.run is None else asked.run.code,
    )


def _nearest(plan: Blueprint, executor: Executor) -> Nearest:
    return Nearest(
        {} if plan.mirror is None else {"mirror": Catalog(plan.mirror)},
        plan.listeners,
        executor.damaged,
        nearer={} if plan.local is None else {LOCAL: Catalog(plan.local)},
    )
