"""Roles: what a worker process does in its training. Rank 0's takes the run; every other writes where it is told to.

Each says when it can do without the trainer: `ready` returns once what is complete will be committed whether or not
that lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.events import Listeners
from asyncckpt.format.codec import codec_of
from asyncckpt.format.record import Record
from asyncckpt.retention import RetentionPolicy
from asyncckpt.storage.base import Storage
from asyncckpt.storage.recipe import Recipe, made
from asyncckpt.worker.commitlog.past import Claim
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.executor import Keeper
from asyncckpt.worker.member import MemberService
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.remote import RemoteRanks
from asyncckpt.worker.process.untaken import Untaken
from asyncckpt.worker.process.wire import Message
from asyncckpt.worker.ranks import SingleRank
from asyncckpt.worker.service import SaveService

_LONG_LOOK = 5.0
"""Seconds after which a store that does not answer is no reason to keep the trainer waiting for a word."""
_FIRST_MEETING, _SLOWEST_MEETING = 0.001, 0.5


class Outliving(Keeper, Protocol):
    """A service that can go on when its training is no more."""

    def orphan(self) -> None: ...


class Role(Protocol):
    """A role, with its service."""

    @property
    def service(self) -> Outliving: ...

    async def ready(self) -> None: ...


class Leader:
    """Of rank 0, or of the only rank; `told` is told of every claim, `is_alive` says whether the trainer is."""

    def __init__(
        self,
        storage: Storage,
        config: Message,
        listeners: Listeners,
        pace: Pace,
        ranks: RemoteRanks | None,
        told: Callable[[Claim], None],
        is_alive: Callable[[], bool],
    ) -> None:
        self._remote = ranks
        self._is_alive = is_alive
        all_ranks = ranks or SingleRank()
        self._untaken = Untaken(storage, config, listeners, all_ranks, is_alive)
        settings = _settings(config, pace, self._untaken.drained)
        self.service = SaveService(storage, settings, listeners, SYSTEM_CLOCK, all_ranks)
        self.service.inherit(wire.past_of(config["past"]))
        self._ownership = self.service.ownership
        self._ownership.on, self._ownership.told = self._check_alone, told

    def _check_alone(self, found: Record | None) -> None:
        if not self._is_alive() and self._ownership.claim.inc is None:
            self._untaken.check(found)

    async def ready(self) -> None:
        """Once it has seen what is in the run that it may have to take alone; or has not, for a while.

        With several ranks it also knows then whose workers it is not to wait for, since they wait for it.
        """
        if self._ownership.claim.inc is None:
            await asyncio.wait([self._untaken.first_look], timeout=_LONG_LOOK)
        if self._remote is not None:
            await _met(self._remote)


class Member:
    """Of every other rank."""

    def __init__(self, storage: Storage, config: Message, listeners: Listeners, pace: Pace, ranks: RemoteRanks) -> None:
        self._ranks = ranks
        self.service = MemberService(storage, _settings(config, pace), listeners, SYSTEM_CLOCK, ranks)

    async def ready(self) -> None:
        """Once it can find what rank 0's worker process writes."""
        await _met(self._ranks)


async def _met(ranks: RemoteRanks) -> None:
    """Return once everything was heard of other ranks that has to be known without a trainer, or that is dead."""
    pause = _FIRST_MEETING
    while not ranks.is_alone and not await asyncio.to_thread(ranks.has_met):
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, _SLOWEST_MEETING)


def _settings(config: Message, pace: Pace, drained: Callable[[], Awaitable[None]] | None = None) -> ServiceConfig:
    keep, monitor = config["keep"], config["monitor"]
    return ServiceConfig(
        RetentionPolicy(**keep) if keep is not None else None,
        (monitor[0], monitor[1]) if monitor is not None else None,
        config["overwrite"],
        drained,
        pace,
        codec=codec_of(config["codec"]),
        incremental=config["incremental"],
        code_version=lambda: config["code_version"],
        only_encrypted=False,  # here checkpoints are copied, and never restored
        **{name: made(Recipe(*recipe)) for name, recipe in config["tiers"].items()},
    )
