"""Listening: a word is heard although it was the last, and nobody waits for one that cannot come."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from asyncckpt.distributed.coordinator import StoreRanks
from asyncckpt.errors import RankMissing
from asyncckpt.worker import listening, pulse
from asyncckpt.worker.listening import Listening, wait
from asyncckpt.worker.pulse import Pulse
from asyncckpt.worker.ranks import SingleRank, at_work, left_key, pulse_key


class Heard(SingleRank):
    """Rank 1 of two; what rank 0 says when, a test decides."""

    rank, world, deadline = 1, 2, 0.05

    def __init__(self, *says: tuple[str, Callable[[], dict[str, Any] | None]]) -> None:
        self.says = dict(says)
        self.asked: list[str] = []

    def peek(self, key: str) -> dict[str, Any] | None:
        self.asked.append(key)
        return self.says[key]() if key in self.says else None


def test_a_last_word_is_heard() -> None:
    ranks = Heard()

    def leaves() -> dict[str, Any]:
        ranks.says["word"] = lambda: {"last": True}
        return {}

    ranks.says[left_key(0)] = leaves
    assert wait(Listening(ranks, 0, ("word",), "word")) == {"last": True}


def test_of_two_words_that_are_both_said_between_two_looks_the_earlier_is_heard() -> None:
    ranks = Heard()

    def later() -> dict[str, Any]:
        ranks.says["landed"] = lambda: {"landed": True}
        return {"verdict": True}

    ranks.says["verdict"] = later
    assert wait(Listening(ranks, 0, ("landed", "verdict"), "word")) == {"landed": True}


def test_without_a_last_word_nobody_waits_for_who_has_left() -> None:
    ranks = Heard((left_key(0), dict))
    ranks.deadline = 1e9
    with pytest.raises(RankMissing, match="no word from rank 0: it has closed its checkpointer"):
        wait(Listening(ranks, 0, ("word",), "word"))


def _pulse(tasks: list[str], *, last: int) -> Callable[[], dict[str, Any]]:
    """Beats of which the `last` comes again and again, of a process that died after it."""
    counts = iter(range(last))
    return lambda: {"beat": next(counts, last), "tasks": tasks}


def test_who_waits_goes_on_while_the_other_is_at_work_and_gives_up_when_it_stops() -> None:
    ranks = Heard((pulse_key(0), _pulse(["this"], last=5)))
    with pytest.raises(RankMissing, match=r"no word from rank 0 within 0\.05 s: why"):
        wait(Listening(ranks, 0, ("word",), "word", task="this", hint=": why"))
    assert ranks.asked.count(pulse_key(0)) == 7  # 0 to 5, and 5 again


@pytest.mark.parametrize("task", [None, "that"])
def test_work_on_something_else_is_no_sign(task: str | None) -> None:
    ranks = Heard((pulse_key(0), _pulse(["this"], last=1000)))
    with pytest.raises(RankMissing):
        wait(Listening(ranks, 0, ("word",), "word", task=task))
    assert ranks.asked.count(pulse_key(0)) == 1


def test_a_store_that_is_gone_ends_the_wait() -> None:
    def gone() -> None:
        raise ConnectionError("refused")

    with pytest.raises(RankMissing, match="rank 0 cannot be heard any more: refused") as caught:
        wait(Listening(Heard(("word", gone)), 0, ("word",), "word"))
    assert caught.value.ranks == (0,)


def test_the_pause_between_two_looks_grows_with_the_wait_and_ends_at_a_quarter_of_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(listening, "time", SimpleNamespace(monotonic=lambda: now[0]))  # of no other thread
    patience = Listening(Heard(), 0, ("word",), "word")
    pauses = []
    for waited in (0, 0.008, 0.8, 1000):
        now[0] = 100.0 + waited
        pauses.append(patience.pause)
    assert pauses == pytest.approx([0.0003, 0.001, 0.1, 0.25])


def test_what_a_rank_is_at_work_on_is_said_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT", 0.001)
    beats = SimpleQueue[tuple[int, list[str]]]()
    heart = Pulse(lambda count, tasks: beats.put((count, list(tasks))))
    heart.begin("one")
    heart.begin("two")
    early = [beats.get(timeout=60) for _ in range(5)]
    assert [count for count, _ in early] == list(range(5))
    assert early[-1][1] == ["one", "two"]
    heart.end("one")
    heart.end("two")
    heart.begin("three")
    assert any(beats.get(timeout=60)[1] == ["three"] for _ in range(100_000))
    heart.stop()


def test_others_hear_what_a_rank_is_at_work_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT", 0.001)
    ranks = StoreRanks(dist.HashStore(), 0, 2, 60.0, {})
    with at_work(ranks, "this"):
        said = wait(Listening(ranks, 0, (pulse_key(0),), "pulse"))
    assert said["tasks"] == ["this"]
