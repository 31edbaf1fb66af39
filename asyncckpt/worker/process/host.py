"""Host: the service in a process of its own, on the other end of the trainer's socket.

It outlives its trainer by as much as it takes to commit every snapshot that was complete, and no more::

    trainer lives      jobs, questions                          until ``close``: finish, leave the run in order, bye
    trainer is dead    what is sealed is committed, what is     no retention, no deletion, no hints: the next training
                       not is deleted; within a deadline        may want to resume from what they would drop, but for
                                                                an earlier save of the same step

That the trainer is dead is seen in two ways: its end of the socket is closed, or its process has ended, since children
that it forked may hold the socket open. Either way what it sent before is read first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sys
from collections.abc import Callable
from contextlib import ExitStack

from asyncckpt.eventlog import EventLog
from asyncckpt.events import Durable, Event, Failed, Fallback, Listeners
from asyncckpt.storage.recipe import Recipe, made
from asyncckpt.worker.commitlog.past import Claim
from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.calls import answer
from asyncckpt.worker.process.ignored import IgnoredMessages, kind_of
from asyncckpt.worker.process.remote import RemoteRanks
from asyncckpt.worker.process.roles import Leader, Member, Role
from asyncckpt.worker.process.wire import Message

if sys.platform == "linux":
    from asyncckpt.worker.process.channel import Channel
    from asyncckpt.worker.process.entrusted import Entrusted

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")


class Host:
    """Serves one trainer on `channel`, as `config` (the first message) says; made inside a running loop."""

    def __init__(self, channel: Channel, config: Message) -> None:
        self._channel = channel
        self._config = config
        self._trainer: Descriptor | None = None
        self._reading: dict[int, list[ExitStack]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_alone = False
        self._loop = asyncio.get_running_loop()
        self._storage = made(Recipe(*config["recipe"]))
        self._listeners = Listeners([self])
        self._ignored = IgnoredMessages("the trainer", self._listeners)
        self._log = EventLog()
        self._pace = Pace()
        self._pace.set(config["share"])
        self._remote = None if config["ranks"] is None else RemoteRanks(config["ranks"], self._post_soon)
        self._role = self._cast()
        self._service = self._role.service
        self._entrusted = Entrusted(self._service, self._post, self._post_soon)
        self._greeting: asyncio.Task[None] | None = None

    def _cast(self) -> Role:
        what = self._storage, self._config, self._listeners, self._pace
        if self._remote is not None and self._remote.rank != 0:
            return Member(*what, self._remote)
        return Leader(*what, self._remote, self._claimed, self._is_trainer_alive)

    def _claimed(self, claim: Claim) -> None:
        self._post({"kind": "claim", "claim": wire.claim_json(claim)})

    @property
    def lost(self) -> int:
        """Complete snapshots that could not be committed once the trainer was dead: nobody else knows of them."""
        return self._entrusted.lost

    async def run(self) -> None:
        """Serve until the trainer has closed, or is dead and all that it left is done."""
        self._watch()
        nice, cpus = os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))
        self._post({"kind": "here", "pid": os.getpid(), "nice": nice, "cpus": cpus})
        self._beat()
        self._greeting = asyncio.create_task(self._greet())
        await self._service.run()
        if not self._is_alone:
            self._post({"kind": "bye"})
        while self._channel.is_waiting and not self._is_alone and not self._channel.is_broken:
            await asyncio.sleep(0.001)
            self._channel.flush()

    def _beat(self) -> None:
        """Say that the loop turns: a process that is there and does nothing looks alive from outside."""
        if not self._is_alone:
            late, self._entrusted.late = self._entrusted.late, 0
            self._post({"kind": "beat", "late": late})
            self._loop.call_later(self._config["beat"], self._beat)

    # -- the trainer ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            self._trainer = Descriptor(os.pidfd_open(self._config["trainer"]))
        except ProcessLookupError:
            self._left_alone()
            return
        self._loop.add_reader(self._trainer.fileno(), self._left_alone)
        self._loop.add_reader(self._channel.fileno(), self._receive)
        if os.getppid() != self._config["trainer"]:  # another process may have its number by now
            self._left_alone()

    def _receive(self) -> None:
        for message, descriptors in self._channel.receive():
            self._take(message, descriptors)
        if self._channel.is_ended:
            self._left_alone()

    def _take(self, message: Message, descriptors: list[Descriptor]) -> None:
        handler = _HANDLERS.get(kind_of(message))
        if handler is None:
            self._ignored.note("unknown", message)
            return
        try:
            handler(self, message, descriptors)
        except Exception as error:
            self._ignored.note("malformed", message, error)
            self._entrusted.refuse(message, error)

    def _left_alone(self) -> None:
        """The trainer is dead: go on without it."""
        if self._is_alone:
            return
        self._is_alone = True
        self._loop.remove_reader(self._channel.fileno())
        if self._trainer is not None:
            self._loop.remove_reader(self._trainer.fileno())
        for message, descriptors in self._channel.receive():  # its last words
            self._take(message, descriptors)
        if self._remote is not None:
            self._remote.lose()
        complete, incomplete = self._entrusted.left_alone()
        logger.info(
            "the trainer (process %s) is gone: %d snapshots to commit, %d incomplete ones to drop",
            *(self._config["trainer"], complete, incomplete),
        )
        self._loop.call_later(self._config["deadline"], self._give_up)
        self._pace.set(1.0)  # nobody is disturbed any more
        self._service.orphan()

    def _give_up(self) -> None:
        undone = len(self._entrusted.jobs)
        logger.error("after %g s alone this worker ends with %d jobs undone", self._config["deadline"], undone)
        logging.shutdown()
        os._exit(1)

    async def _greet(self) -> None:
        """Say that from now on what is complete will be committed whether or not the trainer lives."""
        await self._role.ready()
        self._post({"kind": "hello", "pid": os.getpid()})
        if self._remote is not None and self._remote.rank == 0:
            self._name_threads(self._remote)

    def _name_threads(self, ranks: RemoteRanks) -> None:
        """Say, once, which ranks could not do their part of a save if they were killed."""
        threads = [str(rank) for rank in range(1, ranks.world) if ranks.has_no_worker(rank)]
        if threads:
            reason = "saves in a thread, so that no snapshot outlives it"
            self._listeners.emit(Fallback("executor", f"rank {', '.join(threads)} {reason}"))

    def _is_trainer_alive(self) -> bool:
        if self._is_alone or self._trainer is None:
            return False
        return not select.select([self._trainer.fileno()], [], [], 0)[0]

    # -- what it sends -------------------------------------------------------------------------------------

    def _paced(self, message: Message, descriptors: list[Descriptor]) -> None:
        self._pace.set(message["share"], message["seconds"])

    def _hold(self, message: Message, descriptors: list[Descriptor]) -> None:
        holding = ExitStack()
        holding.enter_context(self._service.hold(message["seq"]))
        self._reading.setdefault(message["seq"], []).append(holding)

    def _release(self, message: Message, descriptors: list[Descriptor]) -> None:
        if held := self._reading.get(message["seq"]):
            held.pop().close()

    def _heard(self, message: Message, descriptors: list[Descriptor]) -> None:
        if self._remote is not None:
            self._remote.hear(message)

    def _close(self, message: Message, descriptors: list[Descriptor]) -> None:
        self._pace.set(1.0)
        self._service.finish()

    # -- what it asks --------------------------------------------------------------------------------------

    def _call(self, message: Message, descriptors: list[Descriptor]) -> None:
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message) -> None:
        self._post(await answer(self._service, message))

    # -- what it is told -----------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Pass an event on; how a save ended goes with its answer. Where nobody is there to hear it, it is logged."""
        if self._is_alone:
            self._log.on_event(event)
        elif isinstance(event, Durable):
            self._entrusted.durable = event
        elif not isinstance(event, Failed):
            self._post({"kind": "event", "event": wire.event_json(event)})

    def _post_soon(self, message: Message) -> None:
        self._loop.call_soon_threadsafe(self._post, message)

    def _post(self, message: Message) -> None:
        if self._is_alone:
            return
        self._channel.post(message)
        if self._channel.is_waiting and not self._channel.is_broken:
            self._loop.add_writer(self._channel.fileno(), self._flush)

    def _flush(self) -> None:
        self._channel.flush()
        if not self._channel.is_waiting or self._channel.is_broken:
            self._loop.remove_writer(self._channel.fileno())


_HANDLERS: dict[str, Callable[[Host, Message, list[Descriptor]], None]] = {
    "arena": lambda host, *said: host._entrusted.arena(*said),
    "layout": lambda host, *said: host._entrusted.layout(*said),
    "drop": lambda host, *said: host._entrusted.drop(*said),
    "job": lambda host, *said: host._entrusted.job(*said),
    "ready": lambda host, *said: host._entrusted.ready(*said),
    "seal": lambda host, *said: host._entrusted.seal(*said),
    "abort": lambda host, *said: host._entrusted.abort(*said),
    "withdraw": lambda host, *said: host._entrusted.withdrawn(*said),
    "abandon": lambda host, *said: host._entrusted.abandoned(*said),
    "hurry": lambda host, *said: host._service.hurry(),
    "pace": Host._paced,
    "hold": Host._hold,
    "release": Host._release,
    "call": Host._call,
    "heard": Host._heard,
    "close": Host._close,
}
