"""Brief: what a worker process is told before anything else. It grows with what those before it have come to know."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace

from asyncckpt import keys
from asyncckpt.clock import Clock
from asyncckpt.storage.recipe import Recipe, recipe_of
from asyncckpt.worker.commitlog.past import Claim, Past
from asyncckpt.worker.commitlog.writer import new_writer_id
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.remote import ranks_json
from asyncckpt.worker.process.settings import ProcessConfig
from asyncckpt.worker.process.wire import Message
from asyncckpt.worker.ranks import Ranks

if sys.platform == "linux":
    from asyncckpt.worker.process.priority import cores_for_worker

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out


class Brief:
    """For the worker processes of one trainer, which computes in so many threads; not for several threads at once."""

    def __init__(
        self, recipe: Recipe, config: ServiceConfig, process: ProcessConfig, ranks: Ranks, clock: Clock, computing: int
    ) -> None:
        self.past = Past(Claim(new_writer_id(clock)))
        self.code_version = config.code_version
        """See `ServiceConfig.code_version`; no part of `message`, since it may take seconds."""
        self.share = 1.0
        """Of the time, for digesting and writing, see `Pace.set`."""
        self._recipe = recipe
        self._config = config
        self._process = process
        self._ranks = ranks
        self._computing = computing

    def message(self) -> Message:
        """For a new one."""
        keep = self._config.keep
        return {
            "trainer": os.getpid(),
            "recipe": list(self._recipe),
            "tiers": {name: recipe_of(storage) for name, storage in self._config.beside.items()},
            "keep": None if keep is None else asdict(keep),
            "monitor": self._config.monitor,
            "overwrite": self._config.overwrite,
            "codec": self._config.codec.word,
            "incremental": self._config.incremental,
            "keys": [key.secret.hex() for key in self._keys()],  # over the socket, and nowhere else
            "past": wire.past_json(self.past),
            "share": self.share,
            "ranks": ranks_json(self._ranks),
            "cpus": sorted(cores_for_worker(self._computing)),
            **asdict(self._process),
        }

    def _keys(self) -> tuple[keys.Key, ...]:
        """What is registered, and what is written with: the environment may have changed since a worker started."""
        written = self._config.codec.key
        own = () if written is None else (keys.find(written, "what is saved"),)
        return tuple(dict.fromkeys([*keys.registered(), *own]))

    def claimed(self, message: Message) -> None:
        """What the run is to this training, has changed."""
        self.past = replace(self.past, claim=wire.claim_of(message["claim"]))

    def hold(self, seq: int) -> None:
        """Somebody here reads that checkpoint."""
        self.past.reading[seq] = self.past.reading.get(seq, 0) + 1

    def release(self, seq: int) -> None:
        """Reads it no more."""
        self.past.reading[seq] -= 1
        if not self.past.reading[seq]:
            del self.past.reading[seq]
