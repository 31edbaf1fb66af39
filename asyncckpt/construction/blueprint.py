"""Blueprint: all that a checkpointer is made from. To make it starts nothing, and refuses what can be refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.construction.options import Options
from asyncckpt.construction.tracked import fingerprint, roughly, roughly_here, shared_names, track
from asyncckpt.distributed.coordinator import place
from asyncckpt.eventlog import EventLog
from asyncckpt.events import Listener, Listeners
from asyncckpt.format.codec import wanted
from asyncckpt.health import Vitals
from asyncckpt.lifecycle.stopping import Stopping
from asyncckpt.metrics import exporter
from asyncckpt.policy import Decider, SavePolicy
from asyncckpt.preemption.speed import Speedometer
from asyncckpt.profile import Profiler
from asyncckpt.saves.cadence import Cadence
from asyncckpt.tiers import check_shared, seen_at, stores
from asyncckpt.version import __version__
from asyncckpt.worker.config import ServiceConfig

logger = logging.getLogger("asyncckpt")


class Blueprint:
    """Of the checkpointer that was `asked` for, of these `objects` by the names of its arguments."""

    def __init__(self, asked: Options, objects: Mapping[str, object]) -> None:
        self.asked = asked
        self.clock = SYSTEM_CLOCK
        self.limits = asked.limits
        self.home, self.local, self.mirror = stores(
            asked.root, asked.storage_options, local=asked.local, mirror=asked.mirror
        )
        self.here = here = place()
        if self.local is not None:
            check_shared(self.local, here.rank, here.world, os.environ)
        policy = asked.save or SavePolicy()
        self.tracked = track(objects, here, policy.exclude)
        self.fingerprint = fingerprint(self.tracked)
        saved = {name: target for name, target in objects.items() if name not in policy.exclude}
        self.size = roughly(saved)
        """Of a snapshot, in bytes, more or less."""
        self.size_here = roughly_here(saved, here)
        """Of this rank's part of it."""
        self.decider = Decider(policy, asked.monitor, self.clock)
        if asked.save is None:
            logger.info("save=None: step() will not save by itself; call save(), or give a SavePolicy")
        self.service = ServiceConfig(
            *(asked.keep, asked.monitor, asked.overwrite),
            mirror=self.mirror,
            local=self.local,
            codec=(codec := wanted(policy.codec)),
            incremental=policy.incremental,
            only_encrypted=codec.key is not None and not policy.accept_plain,
        )
        self.exporter = exporter(asked.metrics, self.home, self.service.beside, here.world)
        speedometer = Speedometer()
        self.vitals, self.profiler = Vitals(self.clock), Profiler()
        own: list[Listener] = [*filter(None, [self.exporter]), speedometer, self.vitals, self.profiler]
        self.listeners = Listeners([EventLog(), *asked.listeners, *own])
        self.stopping = Stopping(asked.preemption, self.listeners, speedometer)
        self.cadence = Cadence(policy, self.clock, self.listeners)

    def alike(self) -> dict[str, str]:
        """What all ranks have to have been given alike, and the version of this package."""
        asked = self.asked
        return {
            "root": self.home.url,
            "local (a folder that all ranks share)": "None" if self.local is None else seen_at(self.local),
            "save": repr(asked.save),
            "key of what is saved (ASYNCCKPT_KEY, asyncckpt.keys)": str(self.service.codec.key),
            "monitor": repr(asked.monitor),
            "on_failure": asked.on_failure,
            "preemption": "None" if asked.preemption is None else f"exit={asked.preemption.exit}",
            "objects that all ranks share": ", ".join(shared_names(self.tracked)),
            "version": __version__,
        }
