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
import mmap
import os
import select
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from asyncckpt.errors import AsyncCkptError, SaveFailed
from asyncckpt.eventlog import EventLog
from asyncckpt.events import Durable, Event, Failed, Fallback, Listeners
from asyncckpt.format.record import Record
from asyncckpt.storage.recipe import Recipe, made
from asyncckpt.worker import failures, wire
from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.ignored import IgnoredMessages, kind_of
from asyncckpt.worker.job import Committed, Landed, Layout, Missed, Rejected, Started
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.past import Claim
from asyncckpt.worker.remote import RemoteRanks
from asyncckpt.worker.roles import Leader, Member, Outliving, Role
from asyncckpt.worker.ticket import Reply, Ticket
from asyncckpt.worker.watermark import Watermark
from asyncckpt.worker.wire import Message

if sys.platform == "linux":
    from asyncckpt.worker.channel import Channel

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")

_POPULATE_READ = 22


@dataclass(slots=True)
class _Held:
    """A job that was not answered yet."""

    size: int
    watermark: Watermark
    token: Descriptor

    def claim(self) -> bool:
        """Whether the trainer has not taken the job back: who reads the token first has it."""
        try:
            os.eventfd_read(self.token.fileno())
        except BlockingIOError:
            return False
        return True


@dataclass(slots=True)
class _Known:
    """What the trainer has sent to be used again and again."""

    arenas: dict[str, memoryview] = field(default_factory=dict)
    layouts: dict[int, Layout] = field(default_factory=dict)


class Host:
    """Serves one trainer on `channel`, as `config` (the first message) says; made inside a running loop."""

    def __init__(self, channel: Channel, config: Message) -> None:
        self._channel = channel
        self._config = config
        self._trainer: Descriptor | None = None
        self._known = _Known()
        self._jobs: dict[str, _Held] = {}
        self._reading: dict[int, list[ExitStack]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._durable: Durable | None = None
        self._is_alone = False
        self.lost = 0
        """Complete snapshots that could not be committed once the trainer was dead: nobody else knows of them."""
        self._loop = asyncio.get_running_loop()
        self._storage = made(Recipe(*config["recipe"]))
        self._listeners = Listeners([self])
        self._ignored = IgnoredMessages("the trainer", self._listeners)
        self._late = 0
        """Messages of saves that are over; the trainer is told how many with each sign of life."""
        self._log = EventLog()
        self._pace = Pace()
        self._pace.set(config["share"])
        self._remote = None if config["ranks"] is None else RemoteRanks(config["ranks"], self._post_soon)
        self._role = self._cast()
        self._service = self._role.service
        self._greeting: asyncio.Task[None] | None = None

    def _cast(self) -> Role:
        what = self._storage, self._config, self._listeners, self._pace
        if self._remote is not None and self._remote.rank != 0:
            return Member(*what, self._remote)
        return Leader(*what, self._remote, self._claimed, self._is_trainer_alive)

    def _claimed(self, claim: Claim) -> None:
        self._post({"kind": "claim", "claim": wire.claim_json(claim)})

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
            late, self._late = self._late, 0
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
            self._refuse(message, error)

    def _refuse(self, message: Message, error: Exception) -> None:
        """The job that a message was about cannot be carried out: its handle must end."""
        about = message.get("job")
        reason = SaveFailed(f"the worker process did not understand what it was told of this save: {error!r}")
        if kind_of(message) == "job" and isinstance(about, dict) and isinstance(about.get("id"), str):
            rejected = {"job": about["id"], "phase": "worker", "error": failures.encode(reason)}
            self._jobs.pop(about["id"], None)
            self._post({"kind": "rejected", **rejected})
        elif (held := self._jobs.get(str(about))) is not None:
            held.watermark.abort(reason)

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
        sealed = [held for held in self._jobs.values() if held.watermark.is_sealed]
        logger.info(
            "the trainer (process %s) is gone: %d snapshots to commit, %d incomplete ones to drop",
            *(self._config["trainer"], len(sealed), len(self._jobs) - len(sealed)),
        )
        for held in self._jobs.values():
            held.watermark.abort(SaveFailed("the trainer ended before its snapshot was complete"))
        self._loop.call_later(self._config["deadline"], self._give_up)
        self._pace.set(1.0)  # nobody is disturbed any more
        self._service.orphan()

    def _give_up(self) -> None:
        logger.error("after %g s alone this worker ends with %d jobs undone", self._config["deadline"], len(self._jobs))
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

    def _arena(self, message: Message, descriptors: list[Descriptor]) -> None:
        memory = mmap.mmap(descriptors[0].fileno(), message["bytes"], prot=mmap.PROT_READ)
        self._known.arenas[message["arena"]] = memoryview(memory)
        if not message["windowed"]:  # to map it in would be to have it all in memory
            self._loop.run_in_executor(None, _map_in, memory)

    def _layout(self, message: Message, descriptors: list[Descriptor]) -> None:
        self._known.layouts[message["layout"]] = wire.layout_of(message["as"])

    def _drop(self, message: Message, descriptors: list[Descriptor]) -> None:
        self._known.arenas.pop(message.get("arena", ""), None)
        self._known.layouts.pop(message.get("layout", 0), None)

    def _job(self, message: Message, descriptors: list[Descriptor]) -> None:
        job = wire.job_of(message["job"], self._known.layouts[message["layout"]])
        held = _Held(job.layout.size, Watermark(), descriptors[0])
        self._jobs[job.id] = held
        if message["windowed"]:
            held.watermark.through_window(lambda _, upto: self._say_taken(job.id, upto))
        self._service.submit(
            Ticket(
                job,
                memoryview(b"") if message["landed"] else self._known.arenas[job.arena],
                held.watermark,
                lambda answer: self._reply(job.id, answer),
                claim=held.claim,
                repeated=message["repeated"],
                landed=message["landed"],
            )
        )

    def _say_taken(self, job: str, upto: int) -> None:
        """The trainer gives that back, since the memory is its own; on any thread."""
        self._loop.call_soon_threadsafe(self._post, {"kind": "taken", "job": job, "upto": upto})

    def _held(self, message: Message) -> _Held | None:
        """The job that a message is about; None where that is over."""
        held = self._jobs.get(message["job"])
        self._late += held is None
        return held

    def _ready(self, message: Message, descriptors: list[Descriptor]) -> None:
        if (held := self._held(message)) is not None:
            held.watermark.advance(message["upto"])

    def _seal(self, message: Message, descriptors: list[Descriptor]) -> None:
        if (held := self._held(message)) is not None:
            held.watermark.advance(held.size)
            held.watermark.seal()

    def _abort(self, message: Message, descriptors: list[Descriptor]) -> None:
        if (held := self._held(message)) is not None:
            held.watermark.abort(failures.decode(message["error"]))

    def _withdrawn(self, message: Message, descriptors: list[Descriptor]) -> None:
        self._service.withdraw(message["job"])
        self._jobs.pop(message["job"], None)

    def _abandon(self, message: Message, descriptors: list[Descriptor]) -> None:
        self._service.abandon(message["job"], message["by_step"])

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
        try:
            said = {"result": await _QUESTIONS[message["name"]](self._service, message)}
        except Exception as error:
            said = {"error": failures.encode(error)}
        self._post({"kind": "answer", "call": message["call"], **said})

    # -- what it is told -----------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Pass an event on; how a save ended goes with its answer. Where nobody is there to hear it, it is logged."""
        if self._is_alone:
            self._log.on_event(event)
        elif isinstance(event, Durable):
            self._durable = event
        elif not isinstance(event, Failed):
            self._post({"kind": "event", "event": wire.event_json(event)})

    def _reply(self, job: str, answer: Reply) -> None:
        if isinstance(answer, Started):
            self._post({"kind": "started", "job": job, "seq": answer.seq})
            return
        if isinstance(answer, Landed):
            self._post({"kind": "landed", "job": job, "record": _text(answer.record)})
            return
        if isinstance(answer, Missed):
            self._post({"kind": "missed", "job": job, "error": failures.encode(answer.error)})
            return
        held = self._jobs.pop(job, None)
        if isinstance(answer, Committed):
            # With its event, in one message: a death between the two would tell of it twice, or never.
            event = None if self._durable is None else wire.event_json(self._durable)
            self._durable = None
            self._post({"kind": "committed", "job": job, "record": _text(answer.record), "event": event})
        elif isinstance(answer, Rejected):
            logger.info("a save failed (%s): %s", answer.phase, answer.error)
            self.lost += self._is_alone and held is not None and held.watermark.is_sealed
            error = failures.encode(answer.error)
            self._post({"kind": "rejected", "job": job, "phase": answer.phase, "error": error})
        else:
            self._post({"kind": "declined", "job": job, "by_step": answer.by_step})

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


def _map_in(memory: mmap.mmap) -> None:
    with suppress(OSError):  # an older kernel: then page by page, when they are read
        memory.madvise(_POPULATE_READ)


def _text(record: Record) -> str:
    return record.encode().decode("ascii")


async def _resume(service: Outliving, message: Message) -> str:
    listing = await service.resume()
    if listing.head is None:
        raise AsyncCkptError("a run that was taken has no head")
    return _text(listing.head)


async def _go_on(service: Outliving, message: Message) -> None:
    verified = None if message["verified"] is None else wire.contents_from(message["verified"])
    await service.go_on(message["seq"], message["damaged"], named=message["named"], verified=verified)


async def _damaged(service: Outliving, message: Message) -> None:
    await service.damaged(message["tier"], *wire.found_of(message["found"]))


async def _prune(service: Outliving, message: Message) -> Message:
    return wire.plan_json(await service.prune(dry_run=message["dry_run"]))


async def _record(service: Outliving, message: Message) -> None:
    await service.record(message["step"], message["metrics"])


async def _settled(service: Outliving, message: Message) -> None:
    await service.settled()


_QUESTIONS: dict[str, Callable[[Outliving, Message], Coroutine[Any, Any, Any]]] = {
    "resume": _resume,
    "go_on": _go_on,
    "damaged": _damaged,
    "prune": _prune,
    "record": _record,
    "settled": _settled,
}

_HANDLERS: dict[str, Callable[[Host, Message, list[Descriptor]], None]] = {
    "arena": Host._arena,
    "layout": Host._layout,
    "drop": Host._drop,
    "job": Host._job,
    "ready": Host._ready,
    "seal": Host._seal,
    "abort": Host._abort,
    "withdraw": Host._withdrawn,
    "abandon": Host._abandon,
    "pace": Host._paced,
    "hold": Host._hold,
    "release": Host._release,
    "call": Host._call,
    "heard": Host._heard,
    "close": Host._close,
}
