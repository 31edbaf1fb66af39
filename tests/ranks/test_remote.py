"""Remote ranks: what a worker process says and hears through its trainer, and what once that is dead."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import RanksDiffer
from asyncckpt.events import Listeners
from asyncckpt.storage.memory import MemoryStorage
from asyncckpt.worker.config import ServiceConfig
from asyncckpt.worker.job import Declined, Layout, SaveJob
from asyncckpt.worker.member import MemberService
from asyncckpt.worker.pace import Pace
from asyncckpt.worker.process.relay import Relay
from asyncckpt.worker.process.remote import RemoteRanks, ranks_json
from asyncckpt.worker.process.roles import Member
from asyncckpt.worker.process.wire import Message
from asyncckpt.worker.ranks import SingleRank, at_work, attempt_key, hello_key, worker_key
from asyncckpt.worker.ticket import Ticket
from asyncckpt.worker.watermark import Watermark


class Trainers(SingleRank):
    """Rank 1 of three, as its trainer has them."""

    rank, world, deadline = 1, 3, 5.0
    arguments = {"root": "there"}  # noqa: RUF012

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.tasks: list[str] = []
        self.is_lost = False

    def publish(self, key: str, value: dict[str, Any]) -> None:
        if self.is_lost:
            raise ConnectionError("refused")
        self.kept[key] = value

    def tell(self, key: str, value: dict[str, Any]) -> None:
        self.kept[key] = value

    def peek(self, key: str) -> dict[str, Any] | None:
        if self.is_lost:
            raise ConnectionError("refused")
        return self.kept.get(key)

    def begin(self, task: str) -> None:
        self.tasks.append(task)

    def end(self, task: str) -> None:
        self.tasks.remove(task)


class Pair:
    """Both ends, and the messages between them as JSON."""

    def __init__(self) -> None:
        self.trainers = Trainers()
        self.relay = Relay(self.trainers)
        said = ranks_json(self.trainers)
        assert said is not None
        self.remote = RemoteRanks(json.loads(json.dumps(said)), self._carry)
        self.unheard: SimpleQueue[Message] | None = None

    def _carry(self, message: Message) -> None:
        told = json.loads(json.dumps(message))
        if self.unheard is not None:
            self.unheard.put(told)
            return
        self.relay.take(told, lambda answer: self.remote.hear(json.loads(json.dumps(answer))))


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.relay.close(None)


def test_one_rank_needs_nothing_said() -> None:
    assert ranks_json(SingleRank()) is None


def test_words_go_through_the_trainer_and_in_order(pair: Pair) -> None:
    remote, trainers = pair.remote, pair.trainers
    assert (remote.rank, remote.world, remote.deadline) == (1, 3, 5.0)
    for number in range(100):
        remote.tell("word", {"number": number})
    assert remote.peek("word") == {"number": 99}
    remote.publish("word", {"number": 100})
    assert trainers.kept["word"] == {"number": 100}
    assert remote.peek("nothing") is None
    assert remote.session is None
    trainers.session = "session"
    assert remote.session == "session"


def test_failures_come_through_as_they_are(pair: Pair) -> None:
    pair.trainers.is_lost = True
    with pytest.raises(ConnectionError, match="refused"):
        pair.remote.peek("word")
    with pytest.raises(ConnectionError, match="refused"):
        pair.remote.publish("word", {})
    pair.trainers.is_lost = False
    pair.trainers.kept[hello_key(2)] = {"root": "elsewhere"}
    with pytest.raises(RanksDiffer, match="root: there and elsewhere"):
        pair.remote.check_alike(2)


def test_a_worker_process_that_dies_is_at_work_on_nothing_any_more(pair: Pair) -> None:
    with at_work(pair.remote, "this"):
        pair.remote.begin("that")
        pair.remote.peek("until both were carried out")
        assert pair.trainers.tasks == ["this", "that"]
    pair.relay.forget()
    pair.remote.peek("until that was carried out")
    assert pair.trainers.tasks == []


def test_who_waits_for_an_answer_of_a_dead_trainer_is_told(pair: Pair) -> None:
    pair.unheard = SimpleQueue()
    said: list[object] = []

    def asks() -> None:
        try:
            pair.remote.peek("word")
        except ConnectionError as error:
            said.append(error)
        pair.remote.publish("word", {})
        said.append("published")

    asking = threading.Thread(target=asks)
    asking.start()
    pair.unheard.get()
    pair.remote.lose()
    asking.join()
    assert "the trainer is dead" in str(said[0])
    assert said[1] == "published"  # there is nobody to say it to, and that is no failure
    pair.remote.tell("word", {})
    assert pair.unheard.empty()
    assert pair.remote.is_alone


def test_what_was_heard_is_known_after_the_trainers_death(pair: Pair) -> None:
    presence = {"machine": "m", "root": "r", "trainer": 1, "started": 2}
    pair.trainers.session, pair.trainers.kept[worker_key(0)] = "session", presence
    assert pair.remote.has_met()
    pair.remote.lose()
    assert pair.remote.session == "session"
    known = pair.remote.presence(0)
    assert known is not None
    assert known.said() == presence
    assert pair.remote.presence(2) is None


@pytest.mark.parametrize("last", ["the session", "rank 0's worker"])
def test_a_member_is_ready_once_it_can_find_what_rank_0_writes(pair: Pair, last: str) -> None:
    """Until then no snapshot of it counts as staged: killed now, it could not do its part."""
    told = {"the session": lambda: setattr(pair.trainers, "session", "session")}
    told["rank 0's worker"] = lambda: pair.trainers.kept.update({worker_key(0): {}})
    config = {"keep": None, "monitor": None, "overwrite": False, "codec": "none", "incremental": True, "tiers": {}}

    async def act() -> None:
        member = Member(MemoryStorage(), config, Listeners(), Pace(), pair.remote)
        told[next(name for name in told if name != last)]()
        ready = asyncio.ensure_future(member.ready())
        for _ in range(3):
            assert not await asyncio.to_thread(pair.remote.has_met)
        assert not ready.done()
        told[last]()
        await ready
        member.service.finish()
        await member.service.run()

    asyncio.run(act())


def test_a_job_that_was_taken_back_on_its_way_is_not_begun(pair: Pair) -> None:
    job = SaveJob("own", 7, 100, None, {}, 0, "arena", Layout((), {}, {}, 0, 0), rank=1, world=3)
    replies: list[object] = []
    pair.trainers.kept[attempt_key(7)] = {"declined": {"by_step": 8}}

    async def act(*, is_taken_back: bool) -> None:
        service = MemberService(MemoryStorage(), ServiceConfig(), Listeners(), SYSTEM_CLOCK, pair.remote)
        service.submit(Ticket(job, memoryview(b""), Watermark(), replies.append, claim=lambda: not is_taken_back))
        await asyncio.sleep(0)
        service.finish()
        await service.run()

    asyncio.run(act(is_taken_back=True))
    assert replies == []
    asyncio.run(act(is_taken_back=False))
    assert replies == [Declined(8)]
