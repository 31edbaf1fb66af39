"""Rank 0 is still writing: what it lets go, every rank lets go, and no rank waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from asyncckpt import SaveHandle, SavePolicy
from asyncckpt.events import Event, Skipped, Superseded
from asyncckpt.saves.saving import OnBusy
from asyncckpt.worker import listening
from tests.ranks.executors import Launcher, gated
from tests.ranks.looking import failure_of, is_leader, steps_of
from tests.ranks.training import Training

pytestmark = pytest.mark.ranks

STEPS = 20
"""Many more than there are generations on any rank."""


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, Skipped | Superseded):
            self.told.append((type(event).__name__, event.step))


def _saves_every_step(root: Path, on_busy: OnBusy) -> tuple[list[str], list[tuple[str, int]]]:
    """Rank 0's first pack is held for the whole training; what became of every save, and the events told."""
    if not is_leader():
        listening._FIRST_LOOK = 0.2  # more saves than generations come before this rank learns what became of them
    training, storage, recorder = Training(), gated(root), Recorder()
    gate = storage.hold("put", "*/rank-00000-of-*")
    options = {"save": SavePolicy(every_steps=1), "on_busy": on_busy, "listeners": [recorder]}
    with training.checkpointer(storage, **options) as checkpointer:
        handles: list[SaveHandle] = []
        for step in range(1, STEPS + 1):
            training.step()
            handle = checkpointer.step(step)
            assert handle is not None
            handles.append(handle)
            if step == 1 and is_leader():
                gate.wait_reached()
        for handle in handles:
            if handle not in (handles[0], handles[1 if on_busy == "skip" else -1]):
                failure_of(handle)
        assert not any(handle.status == "durable" for handle in handles)
        dist.barrier()  # every rank has seen that while rank 0 was still held
        gate.open()
        checkpointer.wait()
    return [handle.status for handle in handles], sorted(recorder.told, key=lambda event: event[1])


def test_what_rank_0_supersedes_is_superseded_on_every_rank(tmp_path: Path, launch: Launcher) -> None:
    statuses = ["durable", *["superseded"] * (STEPS - 2), "durable"]
    told = [("Superseded", step) for step in range(2, STEPS)]
    assert launch(_saves_every_step, 3, tmp_path, "coalesce") == [(statuses, told)] * 3
    assert steps_of(tmp_path) == [1, STEPS]


def test_what_rank_0_skips_is_skipped_on_every_rank(tmp_path: Path, launch: Launcher) -> None:
    statuses = ["durable", "durable", *["skipped"] * (STEPS - 2)]
    told = [("Skipped", step) for step in range(3, STEPS + 1)]
    assert launch(_saves_every_step, 3, tmp_path, "skip") == [(statuses, told)] * 3
    assert steps_of(tmp_path) == [1, 2]


def _others_do_not_step(root: Path) -> str:
    training = Training()
    with training.checkpointer(root, verify="always") as checkpointer:
        handle = checkpointer.save(1)
        if is_leader():
            handle.wait()
        dist.barrier()  # until then no other rank calls anything of the checkpointer
        handle.wait()
    return handle.status


def test_rank_0_needs_nothing_more_of_another_ranks_training_thread(tmp_path: Path, launch: Launcher) -> None:
    assert launch(_others_do_not_step, 2, tmp_path) == ["durable"] * 2


def _one_names_its_successor(root: Path) -> str:
    training, storage = Training(), gated(root)
    with (
        training.checkpointer(storage, save=SavePolicy(every_steps=1)) as checkpointer,
        storage.hold("put", "*/rank-00000-of-*") as gate,
    ):
        first = checkpointer.step(1)
        if is_leader():
            gate.wait_reached()
        second, third = checkpointer.step(2), checkpointer.step(3)
        message = str(failure_of(second))
        gate.open()
        assert first is not None
        assert third is not None
        assert [first.wait().step, third.wait().step] == [1, 3]
    return message


def test_a_superseded_save_names_the_one_that_took_its_place_on_every_rank(tmp_path: Path, launch: Launcher) -> None:
    message = "the snapshot of step 2 was replaced by the one of step 3 before it was written"
    assert launch(_one_names_its_successor, 2, tmp_path) == [message] * 2
