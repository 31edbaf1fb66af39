"""Blueprint: all that a checkpointer is made from. To make it starts nothing, and refuses what can be refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from asyncckpt.arguments import refuse_among
from asyncckpt.asked import Asked
from asyncckpt.cadence import Cadence
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.distributed.coordinator import place
from asyncckpt.eventlog import EventLog
from asyncckpt.events import Listeners
from asyncckpt.metrics import exporter
from asyncckpt.policy import Decider, SavePolicy
from asyncckpt.preemption.speed import Speedometer
from asyncckpt.stopping import Stopping
from asyncckpt.tiers import stores
from asyncckpt.tracked import fingerprint, roughly, roughly_here, shared_names, track
from asyncckpt.version import __version__
from asyncckpt.worker.config import ServiceConfig

logger = logging.getLogger("asyncckpt")


class Blueprint:
    """Of the checkpointer that was `asked` for, of these `objects` by the names of its arguments."""

    def __init__(self, asked: Asked, objects: Mapping[str, object]) -> None:
        self.asked = asked
        self.clock = SYSTEM_CLOCK
        self.limits = asked.limits
        self.home, self.local, self.mirror = stores(
            asked.root, asked.storage_options, local=asked.local, mirror=asked.mirror
        )
        self.here = here = place()
        refuse_among(here.world, local=asked.local)
        self.tracked = track(objects, here)
        self.fingerprint = fingerprint(self.tracked)
        self.size = roughly(objects)
        """Of a snapshot, in bytes, more or less."""
        self.size_here = roughly_here(objects, here)
        """Of this rank's part of it."""
        policy = asked.save or SavePolicy()
        self.decider = Decider(policy, asked.monitor, self.clock)
        if asked.save is None:
            logger.info("save=None: step() will not save by itself; call save(), or give a SavePolicy")
        self.service = ServiceConfig(asked.keep, asked.monitor, asked.overwrite, mirror=self.mirror, local=self.local)
        self.exporter = exporter(asked.metrics, self.home, self.service.beside, here.world)
        speedometer = Speedometer()
        self.listeners = Listeners([EventLog(), *asked.listeners, *filter(None, [self.exporter]), speedometer])
        self.stopping = Stopping(asked.preemption, self.listeners, speedometer)
        self.cadence = Cadence(policy, self.clock, self.listeners)

    def alike(self) -> dict[str, str]:
        """What all ranks have to have been given alike, and the version of this package."""
        asked = self.asked
        return {
            "root": self.home.url,
            "save": repr(asked.save),
            "monitor": repr(asked.monitor),
            "on_failure": asked.on_failure,
            "preemption": "None" if asked.preemption is None else f"exit={asked.preemption.exit}",
            "objects that all ranks share": ", ".join(shared_names(self.tracked)),
            "version": __version__,
        }
