"""Executing: whether the background service runs in a thread of the trainer or in a process of its own."""

from __future__ import annotations

import functools
import logging
import os
import sys
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from asyncckpt.clock import Clock
from asyncckpt.construction.weighing import weigh
from asyncckpt.events import Fallback, Listeners
from asyncckpt.storage.base import Storage
from asyncckpt.storage.recipe import recipe_of
from asyncckpt.worker import presence
from asyncckpt.worker.available import why_not
from asyncckpt.worker.commitlog.past import Past
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.executor import Executor, Keeper, ThreadExecutor
from asyncckpt.worker.member import MemberService
from asyncckpt.worker.process.adopting import drained
from asyncckpt.worker.process.settings import ProcessConfig
from asyncckpt.worker.ranks import Ranks, worker_key
from asyncckpt.worker.service import SaveService
from asyncckpt.worker.sharing import here

Wanted: TypeAlias = Literal["auto", "thread", "process"] | ProcessConfig

logger = logging.getLogger("asyncckpt")


def made(
    wanted: Wanted,
    nbytes: int,
    storage: Storage,
    config: ServiceConfig,
    listeners: Listeners,
    clock: Clock,
    ranks: Ranks,
) -> Executor:
    """What carries the saves of this rank out, for a state of about `nbytes`.

    Where a process is wanted and cannot be had, that is an event. The other ranks are told whether this one has a
    process that outlives it.
    """
    timeout = (wanted if isinstance(wanted, ProcessConfig) else ProcessConfig()).adopt_timeout
    config = replace(config, drained=functools.partial(drained, storage.url, timeout, listeners))
    executor = _Making(storage, config, listeners, clock, ranks).executor(wanted, nbytes)
    outlives = None if isinstance(executor, ThreadExecutor) else presence.own(storage.url)
    ranks.tell(worker_key(ranks.rank), {} if outlives is None else outlives.said())
    return executor


@dataclass(frozen=True, slots=True)
class _Making:
    """What every kind of executor is made from."""

    storage: Storage
    config: ServiceConfig
    listeners: Listeners
    clock: Clock
    ranks: Ranks

    def executor(self, wanted: Wanted, nbytes: int) -> Executor:
        """The one that is wanted, or else the one that can be had."""
        if wanted == "thread" or (wanted == "auto" and not self._is_worth_it(nbytes)):
            return self._thread(None)
        settings = wanted if isinstance(wanted, ProcessConfig) else ProcessConfig()
        reason = why_not(self.storage, *self.config.beside.values())
        if reason is None:
            try:
                return self._process(settings)
            except RuntimeError as error:  # no thread to be had that would watch it
                reason = str(error)
        self.listeners.emit(Fallback("executor", f"{reason}: saves run in a thread, and end with this process"))
        return self._thread(None)

    def _is_worth_it(self, nbytes: int) -> bool:
        found = weigh(nbytes, self.ranks.world)
        measured = "" if found.rate is None else f" (digested here at {found.rate / 1e9:.1f} GB/s)"
        logger.info(
            "executor='auto': a %s, for about %s bytes of state; a process is worth it above %s%s",
            *(found.executor, f"{found.bytes:,}", f"{found.break_even:,}", measured),
        )
        self.listeners.emit(found)
        return found.executor == "process"

    def _process(self, settings: ProcessConfig) -> Executor:
        recipe = recipe_of(self.storage)
        if sys.platform == "linux" and recipe is not None:
            from asyncckpt.worker.process.bridge import ProcessExecutor

            # Of every rank that may be here: those that are not bound to cores of their own use each other's.
            computing = torch.get_num_threads() * len(here(self.ranks.rank, self.ranks.world, os.environ))
            return ProcessExecutor(
                *(self.storage, recipe, self.config, settings, self.listeners, self.clock, self.ranks, computing),
                self._thread,
            )
        return self._thread(None)

    def _thread(self, past: Past | None) -> Executor:
        """The one in a thread, from what it has to know of a process that went before."""
        return ThreadExecutor(functools.partial(self._service, past), self.config.pace)

    def _service(self, past: Past | None, former: Keeper | None) -> Keeper:
        """The service of this rank, which goes on where `former` crashed, or where a process was with that `past`."""
        if self.ranks.rank != 0:
            return MemberService(self.storage, self.config, self.listeners, self.clock, self.ranks)
        service = SaveService(self.storage, self.config, self.listeners, self.clock, self.ranks)
        if isinstance(former, SaveService):
            past = former.past
        if past is not None:
            service.inherit(past)
        return service
