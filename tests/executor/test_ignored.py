"""Messages of another version, or of a worker at fault: they are counted and said in the log, and end nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, MetricsConfig
from asyncckpt.errors import SaveFailed, WorkerCrashed
from asyncckpt.events import Fallback, Ignored, Listeners
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.shared import SharedGates
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.channel import Channel
from asyncckpt.worker.process.entrusted import Held
from asyncckpt.worker.process.host import Host
from asyncckpt.worker.process.ignored import IgnoredMessages
from asyncckpt.worker.process.link import Link
from asyncckpt.worker.watermark import Watermark

from ..checkpointer.scraping import scrape, value
from ..checkpointer.trainings import Recorder, Toy, steps, worker_of
from ..worker.drive import Session
from .conftest import Make
from .test_host import config

Said = Callable[[wire.Message], wire.Message]


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> list[Said]:
    """What these make of the messages of a real worker is what its trainer hears."""
    made: list[Said] = []
    receive = Link.receive

    def heard(link: Link) -> Iterator[Any]:
        for message, descriptors in receive(link):
            for change in made:
                message = change(message)  # noqa: PLW2901
            yield message, descriptors

    monkeypatch.setattr(Link, "receive", heard)
    return made


def instead_of(kind: str, /, **said: Any) -> Said:
    """A message of that kind says something else."""
    return lambda message: {**message, **said} if message.get("kind") == kind else message


def ignored(recorder: Recorder) -> list[tuple[str, str]]:
    return [(event.why, event.kind) for event in recorder.of(Ignored) if event.why != "late"]


# -- what a worker says ------------------------------------------------------------------------------------


def test_P5_a_word_that_a_trainer_does_not_know_is_counted_said_once_and_ends_nothing(
    make: Make, recorder: Recorder, saying: list[Said], caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    saying.append(instead_of("started", kind="commenced"))
    ckpt = make(model=Toy(), metrics=MetricsConfig(port=None, registry=registry))
    for step in (1, 2):
        assert ckpt.save(step).wait(PATIENCE).step == step
    worker = worker_of(ckpt)
    assert ckpt.prune(dry_run=True).removed == ()
    assert worker_of(ckpt) == worker
    assert ignored(recorder) == [("unknown", "commenced")] * 2
    assert value(scrape(registry), "asyncckpt_worker_ignored_messages_total", reason="unknown") == 2
    assert caplog.text.count("a message of the worker process was ignored: 'commenced' is unknown here") == 1
    assert recorder.of(Fallback) == []
    assert steps(ckpt) == [1, 2]


@pytest.mark.parametrize("event", ["NotYetInvented", "logger", "Listeners"])
def test_P5_an_event_of_another_version_is_counted(
    make: Make, recorder: Recorder, saying: list[Said], event: str
) -> None:
    saying.append(instead_of("event", event={"event": event, "step": 1}))
    ckpt = make(model=Toy())
    assert ckpt.save(1).wait(PATIENCE).step == 1
    ckpt.wait()
    assert set(ignored(recorder)) == {("unknown", event)}


def test_P5_so_is_the_one_that_comes_with_a_commit_and_the_save_is_durable(
    make: Make, recorder: Recorder, saying: list[Said]
) -> None:
    saying.append(instead_of("committed", event={"event": "Eternal", "step": 1}))
    ckpt = make(model=Toy())
    assert ckpt.save(1).wait(PATIENCE).step == 1
    assert ignored(recorder) == [("unknown", "Eternal")]


def test_P5_fields_that_a_trainer_does_not_know_are_left_out(
    make: Make, recorder: Recorder, saying: list[Said]
) -> None:
    def more(message: wire.Message) -> wire.Message:
        event = message.get("event")
        return {**message, "new": 1, "event": {**event, "new": 1}} if isinstance(event, dict) else {**message, "new": 1}

    saying.append(more)
    ckpt = make(model=Toy())
    assert ckpt.save(1).wait(PATIENCE).step == 1
    assert ckpt.resume().step == 1
    assert ignored(recorder) == []


def test_P5_a_message_that_cannot_be_understood_ends_its_save_and_no_other(
    make: Make, recorder: Recorder, saying: list[Said], caplog: pytest.LogCaptureFixture
) -> None:
    ckpt = make(model=Toy())
    saying.append(instead_of("committed", record="{}"))
    handle = ckpt.save(1)
    with pytest.raises(SaveFailed, match=r"step 1 may be durable or not, the catalog says") as raised:
        handle.wait(PATIENCE)
    assert isinstance(raised.value.__cause__, WorkerCrashed)
    saying.clear()
    assert ckpt.save(2).wait(PATIENCE).step == 2
    assert ignored(recorder) == [("malformed", "committed")]
    assert recorder.of(Fallback) == []
    assert steps(ckpt) == [1, 2]


def test_P5_an_answer_that_cannot_be_understood_fails_its_call(make: Make, saying: list[Said]) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    saying.append(lambda message: {k: v for k, v in message.items() if k != "result"})
    with pytest.raises(WorkerCrashed, match="the answer was not understood"):
        ckpt.prune(dry_run=True)
    saying.clear()
    assert ckpt.prune(dry_run=True).removed == ()


@pytest.mark.parametrize("data", [b"[1]", b"no JSON", b"\xff", b'"text"', b'{"$body": 9}', b'{"kind": ["hello"]}'])
def test_P5_what_is_no_message_at_all_is_counted(make: Make, recorder: Recorder, data: bytes) -> None:
    ckpt: AsyncCheckpointer = make(model=Toy())
    ckpt.save(1).wait()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(data)
        ours.send(json.dumps({"kind": "beat"}).encode())
        channel = Channel(theirs)
        executor: Any = ckpt._executor
        for message, _ in channel.receive():
            executor._replies.take(message)
        channel.close()
    assert [why for why, _ in ignored(recorder)] == ["unknown"]
    assert ckpt.save(2).wait(PATIENCE).step == 2


def test_P5_what_is_late_is_counted_and_not_said(
    make: Make, recorder: Recorder, saying: list[Said], caplog: pytest.LogCaptureFixture
) -> None:
    said: list[wire.Message] = []
    saying.append(lambda message: said.append(message) or message)
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    executor: Any = ckpt._executor
    for kind in ("started", "committed"):
        executor._replies.take(next(message for message in said if message["kind"] == kind))
    assert [(event.why, event.kind) for event in recorder.of(Ignored)] == [("late", "started"), ("late", "committed")]
    assert "was ignored" not in caplog.text
    assert ckpt.save(2).wait(PATIENCE).step == 2


# -- what a trainer says -----------------------------------------------------------------------------------


def test_P5_a_word_that_a_worker_does_not_know_ends_nothing_there_and_its_trainer_counts_it(
    make: Make, store: SharedGates, recorder: Recorder
) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    worker, executor = worker_of(ckpt), ckpt._executor
    assert executor._exchange.link is not None
    executor._exchange.link.channel.post({"kind": "sing"})
    executor._exchange.link.channel.post({"kind": "hold"})  # what?
    assert ckpt.save(2).wait(PATIENCE).step == 2
    assert worker_of(ckpt) == worker
    assert ignored(recorder) == [("unknown", "sing"), ("malformed", "hold")]


def test_P5_a_job_that_a_worker_does_not_understand_fails_its_save_and_no_other(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    with monkeypatch.context() as patch:
        job_json = wire.job_json
        patch.setattr("asyncckpt.worker.process.pending.job_json", lambda job: {**job_json(job), "colour": "blue"})
        handle = ckpt.save(2)
        with pytest.raises(SaveFailed, match="the worker process did not understand what it was told of this save"):
            handle.wait(PATIENCE)
    assert ckpt.save(3).wait(PATIENCE).step == 3
    assert steps(ckpt) == [1, 3]
    assert ignored(recorder) == [("malformed", "job")]


def test_P5_a_snapshot_whose_progress_a_worker_does_not_understand_fails(tmp_path: Path) -> None:
    async def act() -> BaseException | None:
        session = Session(LocalStorage(tmp_path))
        await session.saved(1)
        await session.abandon()
        ours, theirs = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        host = Host(theirs, config(tmp_path, session.service.past, os.getppid()))
        host._entrusted.jobs["job"] = held = Held(9, Watermark(), Descriptor(os.eventfd(1)))
        host._take({"kind": "ready", "job": "job"}, [])  # how far?
        ours.close()
        theirs.close()
        return held.watermark.error

    assert "did not understand what it was told of this save: KeyError('upto')" in str(asyncio.run(act()))


def test_P5_what_a_worker_hears_too_late_is_counted_with_its_next_sign_of_life(tmp_path: Path) -> None:
    async def act() -> wire.Message:
        session = Session(LocalStorage(tmp_path))
        await session.saved(1)
        await session.abandon()
        ours, theirs = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        host = Host(theirs, config(tmp_path, session.service.past, os.getppid()))
        for message in ({"kind": "ready", "job": "gone", "upto": 1}, {"kind": "seal", "job": "gone"}):
            host._take(message, [])
        host._beat()
        (told,) = [message for message, _ in ours.receive()]
        ours.close()
        theirs.close()
        return told

    assert asyncio.run(act()) == {"kind": "beat", "late": 2}


def test_a_kind_that_nobody_knows_is_shown_in_part_only(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    IgnoredMessages("somebody", Listeners([recorder])).note("unknown", {"kind": "x" * 100_000})
    assert recorder.of(Ignored) == [Ignored("unknown", "x" * 40)]
    assert len(caplog.text) < 500
