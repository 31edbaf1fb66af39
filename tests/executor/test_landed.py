"""A job that is given to a second worker is carried out once, in its place or not at all; and only one side has it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any, cast

import pytest

from asyncckpt.errors import SaveFailed
from asyncckpt.storage import MemoryStorage
from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.job import Committed, Rejected, SaveJob
from asyncckpt.worker.process.entrusted import Held
from asyncckpt.worker.process.pending import Pending
from asyncckpt.worker.ticket import Ticket
from asyncckpt.worker.watermark import Watermark

from ..worker.drive import Session, image, run, steps

LAYOUT, ARENA = image({("a",): b"bytes"})


def ticket(step: int, answers: list[Any], *, repeated: bool = False) -> Ticket:
    watermark = Watermark()
    watermark.advance(len(ARENA))
    watermark.seal()
    job = SaveJob(f"job-{step}", step, step, None, {}, step * 1000, "arena", LAYOUT)
    return Ticket(job, memoryview(ARENA), watermark, answers.append, repeated=repeated)


async def _saved_twice(store: MemoryStorage, *again: int) -> list[Any]:
    """What is answered for the steps `again`, which a first worker had too: it has committed 1 and 2, and is dead."""
    first, answers, done = Session(store), list[Any](), asyncio.Event()

    def reply(answer: Any) -> None:
        answers.append(answer)
        if isinstance(answer, Committed) and answer.record.checkpoint.step == 2:
            done.set()

    for step in (1, 2):
        first.service.submit(replace(ticket(step, answers), reply=reply))
    await done.wait()
    await first.abandon()
    second = Session(store, former=first)
    answers.clear()
    for step in again:
        second.service.submit(ticket(step, answers, repeated=True))
    await second.close()
    return [answer for answer in answers if isinstance(answer, Committed | Rejected)]


def test_P5_a_job_that_was_committed_is_answered_with_the_record_that_did() -> None:
    store = MemoryStorage()
    found = run(lambda store: _saved_twice(store, 1, 2), store)
    assert [answer.record.checkpoint.seq for answer in found] == [1, 2]
    assert run(steps, store) == [1, 2]


def test_P5_a_job_whose_commit_is_not_to_be_found_is_not_written_after_a_later_one() -> None:
    (rejected,) = run(lambda store: _saved_twice(store, 0))
    assert isinstance(rejected, Rejected)
    assert isinstance(rejected.error, SaveFailed)
    assert "step 2, which was saved later, is durable" in str(rejected.error)


def test_P5_another_training_s_job_of_the_same_step_is_not_taken_for_this_one() -> None:
    async def act(store: MemoryStorage) -> list[int]:
        await _saved_twice(store)
        answers: list[Any] = []
        async with Session(store) as other:
            await other.resume()
            other.service.submit(ticket(2, answers, repeated=True))
        return [answer.record.checkpoint.seq for answer in answers if isinstance(answer, Committed)]

    assert run(act) == [3]


def test_P5_a_job_is_known_by_its_id_too() -> None:
    async def act(store: MemoryStorage) -> list[int]:
        first, answers = Session(store), list[Any]()
        record = await first.saved(2)
        await first.abandon()
        other = ticket(2, answers, repeated=True)
        assert record.checkpoint is not None
        twin = replace(other, job=replace(other.job, created=record.checkpoint.created))
        async with Session(store, former=first) as second:
            second.service.submit(twin)
        return [answer.record.checkpoint.seq for answer in answers if isinstance(answer, Committed)]

    assert run(act) == [2]


@pytest.mark.parametrize("first", ["trainer", "worker"])
def test_P5_a_job_is_begun_or_taken_back_and_never_both(first: str) -> None:
    pending = Pending(cast("Ticket", replace(ticket(1, []))), 1)
    held = Held(1, Watermark(), Descriptor(os.dup(pending.token.fileno())))
    taking = [pending.take, held.claim] if first == "trainer" else [held.claim, pending.take]
    assert [take() for take in taking] == [True, False]
    pending.renew()
    assert pending.take()
