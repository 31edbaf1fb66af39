"""Reports: a commit takes exactly one of every rank, of this very attempt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from asyncckpt import keys
from asyncckpt.errors import CheckpointCorruptError, RankMissing, SaveFailed
from asyncckpt.format.contents import Contents, Pack
from asyncckpt.format.names import DataDirectory
from asyncckpt.format.report import Report
from asyncckpt.storage.memory import MemoryStorage
from asyncckpt.worker.job import Layout, SaveJob
from asyncckpt.worker.ranks import SingleRank, left_key, trouble_key
from asyncckpt.worker.reports import ShardFailed, gather

WRITER = "f" * 32
ATTEMPT = DataDirectory(4, 100, 2, "0badcafe")


class TwoRanks(SingleRank):
    """Rank 0 of two, whose other one is a test."""

    world = 2
    deadline = 0.1

    def __init__(self) -> None:
        self.said: dict[str, dict[str, Any]] = {}

    def peek(self, key: str) -> dict[str, Any] | None:
        return self.said.get(key)


def _contents(rank: int) -> Contents:
    pack = Pack(ATTEMPT.pack(rank, 2, 0), 10, 8, "0" * 32, rank)
    return Contents((pack,), {}, {}, {"state" if rank == 0 else f"rank-{rank}": {}})


def _report(rank: int) -> Report:
    return Report(WRITER, ATTEMPT.seq, ATTEMPT.nonce, ATTEMPT.step, rank, 2, "", _contents(rank))


def _gather(storage: MemoryStorage, ranks: TwoRanks, other: bytes | None, hidden: str = "none") -> Contents:
    job = SaveJob("job", 7, 100, None, {}, 0, "arena", Layout((), {}, {}, 0, 0), rank=0, world=2)

    async def run() -> Contents:
        if other is not None:
            await storage.put(ATTEMPT.report(1, 2), [other])
        return await gather(job, replace(_contents(0), hidden=hidden), ATTEMPT, WRITER, storage, ranks)

    return asyncio.run(run())


def test_the_contents_of_all_ranks_are_merged() -> None:
    contents = _gather(MemoryStorage(), TwoRanks(), _report(1).encode())
    assert [pack.rank for pack in contents.packs] == [0, 1]
    assert sorted(contents.values) == ["rank-1", "state"]


@pytest.mark.parametrize(
    "other",
    [{"writer": "e" * 32}, {"seq": 3}, {"nonce": "5eedf00d"}, {"step": 99}, {"world": 3}, {"rank": 2}],
    ids=lambda change: next(iter(change)),
)
def test_a_report_of_another_attempt_counts_as_none(other: dict[str, Any]) -> None:
    with pytest.raises(RankMissing, match=r"no part of step 100 from rank 1 within 0\.1 s") as caught:
        _gather(MemoryStorage(), TwoRanks(), replace(_report(1), **other).encode())
    assert caught.value.ranks == (1,)


def test_no_report_at_all_names_the_rank() -> None:
    with pytest.raises(RankMissing) as caught:
        _gather(MemoryStorage(), TwoRanks(), None)
    assert caught.value.ranks == (1,)


def test_a_damaged_report_fails_the_save() -> None:
    data = bytearray(_report(1).encode())
    data[len(data) // 2] ^= 1
    with pytest.raises(CheckpointCorruptError):
        _gather(MemoryStorage(), TwoRanks(), bytes(data))


def test_trouble_ends_the_wait_at_once_and_of_this_save_alone() -> None:
    ranks = TwoRanks()
    ranks.said[trouble_key(6, 1)] = {"error": "an earlier one"}
    with pytest.raises(RankMissing):
        _gather(MemoryStorage(), ranks, None)
    ranks.deadline = 30
    ranks.said[trouble_key(7, 1)] = {"error": "the disk is full"}
    with pytest.raises(SaveFailed, match="rank 1 could not write its shard: the disk is full"):
        _gather(MemoryStorage(), ranks, None)


def test_trouble_with_an_attempt_is_of_that_attempt_alone() -> None:
    ranks = TwoRanks()
    ranks.said[trouble_key(7, 1)] = {"error": "the local disk is full", "seq": ATTEMPT.seq - 1}
    assert len(_gather(MemoryStorage(), ranks, _report(1).encode()).packs) == 2
    with pytest.raises(RankMissing):
        _gather(MemoryStorage(), ranks, None)
    ranks.said[trouble_key(7, 1)]["seq"] = ATTEMPT.seq
    with pytest.raises(ShardFailed, match="the local disk is full"):
        _gather(MemoryStorage(), ranks, None)


def test_a_rank_that_shares_other_objects_fails_the_save_and_is_named() -> None:
    with pytest.raises(SaveFailed, match="rank 1 shares other objects than rank 0"):
        _gather(MemoryStorage(), TwoRanks(), replace(_report(1), plan="another").encode())


def test_two_ranks_with_the_same_name_fail_the_save() -> None:
    with pytest.raises(ValueError, match="two ranks hold state"):
        _gather(MemoryStorage(), TwoRanks(), replace(_report(1), contents=_contents(0)).encode())


def test_a_store_that_is_gone_ends_the_wait_for_a_report_only_at_the_deadline() -> None:
    ranks = TwoRanks()

    def peek(key: str) -> None:
        raise ConnectionError("refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "peek", peek)
        patch.setattr(ranks, "check_alike", peek)
        assert len(_gather(MemoryStorage(), ranks, _report(1).encode()).packs) == 2
        with pytest.raises(RankMissing, match=r"no part of step 100 from rank 1 within 0\.1 s"):
            _gather(MemoryStorage(), ranks, None)


class LeavesAfterItsReport(TwoRanks):
    """Rank 1 has reported by the time it is seen to have left."""

    def __init__(self, storage: MemoryStorage) -> None:
        super().__init__()
        self.storage = storage

    def peek(self, key: str) -> dict[str, Any] | None:
        if key != left_key(1):
            return None
        asyncio.run(self.storage.put(ATTEMPT.report(1, 2), [_report(1).encode()]))
        return {}


def test_a_report_that_came_just_before_its_rank_left_counts() -> None:
    storage = MemoryStorage()
    assert len(_gather(storage, LeavesAfterItsReport(storage), None).packs) == 2


def test_a20_a_report_that_takes_no_key_is_not_taken_into_what_is_encrypted() -> None:
    """Whoever can write to the store could have it vouched for."""
    word = f"aes256gcm:{keys.register(bytes(range(32)))}"
    try:
        with pytest.raises(SaveFailed, match="part of rank 1 is stored with 'none', that of rank 0 with 'aes256gcm:"):
            _gather(MemoryStorage(), TwoRanks(), _report(1).encode(), word)
        own = replace(_report(1), contents=replace(_contents(1), hidden=word))
        assert _gather(MemoryStorage(), TwoRanks(), own.encode(), word).hidden == word
    finally:
        keys.forget()
