"""Health and profile: what a program can ask, and what it is told of each thing that goes wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncckpt import AsyncCheckpointer, SaveHandle, SavePolicy, health
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import CheckpointerClosed, SaveFailed, StorageDenied, TransientError
from asyncckpt.events import (
    Durable,
    Failed,
    Fallback,
    Requested,
    Skipped,
    Staged,
    Stalled,
    Superseded,
    TierDurable,
    TierFailed,
)
from asyncckpt.health import Checkup, Health, Vitals
from asyncckpt.levels import Levels
from asyncckpt.profile import Profiler, SaveTimes
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from ..checkpointer.trainings import worker_of
from .conftest import Make
from .trainings import Recorder, Toy

pytestmark = pytest.mark.executors


class Later:
    """A clock that can be moved on."""

    def __init__(self) -> None:
        self.by = 0.0

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic() + self.by

    def time(self) -> float:
        return SYSTEM_CLOCK.time() + self.by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Later:
    """That of the checkpointer's health."""
    later = Later()
    for made in (Vitals, Checkup):
        real = made.__init__

        def init(self: Any, *arguments: Any, real: Any = real, **more: Any) -> None:
            real(self, *arguments[:-1], later, **more)

        monkeypatch.setattr(made, "__init__", init)
    return later


def saving(ckpt: AsyncCheckpointer, model: Toy, step: int) -> SaveHandle:
    """A save of what has changed since the last one: of what has not, no pack is written."""
    model.value = step
    return ckpt.save(step)


def test_a23_one_that_does_what_it_should_has_no_problems(make: Make, executor: str) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1))
    assert ckpt.health().worker in ("idle", "alive", "dead"), "a process is not there at once"
    ckpt.step(1).wait()
    found = ckpt.health(within=PATIENCE)
    assert found.ok
    assert found.problems == ()
    assert (found.worker, found.storage, found.durable_step, found.failures) == ("alive", "reachable", 1, 0)
    assert (found.queued, found.writing, found.oldest) == (0, 0, None)
    assert found.durable_age is not None
    assert found.storage_age is not None
    assert found.worker_starts == (executor == "process")
    said = json.loads(json.dumps(found.json()))
    assert said["ok"] is True
    assert said["durable_step"] == 1
    ckpt.close()
    with pytest.raises(CheckpointerClosed):
        ckpt.health()
    again = make(model=Toy())
    assert again.health().durable_step is None
    again.resume()
    assert again.health().durable_step == 1


def test_a23_a_store_that_hangs_holds_nobody_up_and_is_told(make: Make, store: GatedStorage, clock: Later) -> None:
    model = Toy()
    ckpt = make(model=model)
    saving(ckpt, model, 1).wait()
    assert ckpt.health(within=PATIENCE).ok
    gate = store.hold("put", "*.safetensors")
    heads = store.hold("head")
    handle = saving(ckpt, model, 2)
    gate.wait_reached()
    assert handle.id  # a worker process has said that it is begun
    asked = threading.Event()
    threading.Thread(target=lambda: (ckpt.health(), asked.set())).start()
    assert asked.wait(PATIENCE), "it waited for the store"
    assert ckpt.health().ok, "nothing is late yet"
    clock.by = 1000
    found = ckpt.health()
    assert not found.ok
    assert found.writing == 1
    assert found.oldest is not None
    assert found.oldest > 1000
    text = " / ".join(found.problems)
    assert "the save of step 2 is under way for 10" in text
    assert "the store has not answered for 10" in text
    assert found.worker in ("stuck", "silent")
    gate.open()
    heads.open()
    handle.wait(PATIENCE)
    clock.by = 0
    assert ckpt.health(within=PATIENCE).problems == ()


def test_a23_with_a_local_tier_it_is_told_which_of_the_two_has_not_got_a_save(
    make: Make, store: GatedStorage, clock: Later, tmp_path: Path
) -> None:
    nearer = GatedStorage(MemoryStorage(f"{tmp_path}-local"))
    model = Toy()
    ckpt = make(model=model, local=nearer)
    disk, root = nearer.hold("put", "*.safetensors"), store.hold("put", "*.safetensors")
    with root:
        with disk:
            handle = saving(ckpt, model, 1)
            disk.wait_reached()
            clock.by = 1000
            (problem,) = ckpt.health().problems
            assert "; the local tier has not got it: its disk is slow, or hangs" in problem
        handle.wait(PATIENCE, tier="local")
        (problem,) = ckpt.health().problems
        assert "; it is on the local tier" in problem
    handle.wait(PATIENCE)


def test_a23_a_store_that_cannot_be_reached_is_told_and_so_is_that_it_is_again(make: Make, store: GatedStorage) -> None:
    model = Toy()
    ckpt = make(model=model)
    saving(ckpt, model, 1).wait()
    store.fail("head", "run.json", lambda: TransientError("no route to host"), times=1)
    found = ckpt.health(within=PATIENCE)
    assert found.storage == "unreachable"
    assert found.problems == ("the store cannot be reached: no route to host",)
    assert ckpt.health(within=PATIENCE).storage == "reachable"


def test_a23_saves_that_fail_for_a_full_disk_are_told_until_one_is_durable(make: Make, store: GatedStorage) -> None:
    model = Toy()
    ckpt = make(model=model)
    saving(ckpt, model, 1).wait()
    for step in (2, 3):
        store.fail("put", "*.safetensors", lambda: StorageDenied(errno.ENOSPC, "no space left on device"), times=1)
        with pytest.raises(SaveFailed):
            saving(ckpt, model, step).wait()
    found = ckpt.health()
    assert (found.failures, found.oldest) == (2, None)
    (problem,) = found.problems
    assert problem.startswith("2 failed and none since step 1 is durable; last step 3 (")
    assert "no space left on device" in problem
    saving(ckpt, model, 4).wait()
    assert ckpt.health().ok


def test_a23_that_nothing_was_durable_for_many_intervals_is_told(make: Make, clock: Later) -> None:
    model = Toy()
    ckpt = make(model=model, save=SavePolicy(every_seconds=30))
    ckpt.step(1)  # nothing is due, but how often it is, is known from here on
    saving(ckpt, model, 1).wait()
    clock.by = 200

    def late() -> list[str]:
        return [problem for problem in ckpt.health(within=PATIENCE).problems if "is due" in problem]

    assert late() == []
    clock.by = 1000
    (problem,) = late()
    assert re.fullmatch(r"the newest durable checkpoint is 1\d{3} s old, where one every 30 s is due", problem)
    saving(ckpt, model, 2).wait()
    clock.by = 0
    assert late() == []


def test_a23_a_mirror_that_is_behind_is_told_until_it_is_not(make: Make, recorder: Recorder, tmp_path: Path) -> None:
    model, mirror = Toy(), tmp_path / "mirror"
    mirror.write_text("a file in the way")
    ckpt = make(model=model, mirror=mirror)
    saving(ckpt, model, 1).wait()
    recorder.wait_for(TierFailed)
    saving(ckpt, model, 2).wait()  # by now everybody has heard of that
    assert [problem for problem in ckpt.health().problems if problem.startswith("the mirror is behind: ")]
    mirror.unlink()
    saving(ckpt, model, 3).wait()
    recorder.wait_for(TierDurable)
    saving(ckpt, model, 4).wait()
    assert ckpt.health(within=PATIENCE).problems == ()


def test_a23_a_disk_that_is_too_small_for_the_next_save_is_told_before_it(
    tmp_path: Path, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AsyncCheckpointer(tmp_path / "run", model=Toy(), executor=executor) as ckpt:
        ckpt.save(1).wait()
        assert (ckpt.health(within=PATIENCE).disk_free or 0) > 1 << 20
        monkeypatch.setattr(health, "free", lambda storage: 100)
        ckpt.health(within=PATIENCE)
        found = ckpt.health(within=PATIENCE)
        assert found.disk_free == 100
        assert [
            problem for problem in found.problems if "the disk has 100 bytes left, and a full save takes" in problem
        ]


@pytest.mark.skipif(sys.platform != "linux", reason="a worker process needs Linux")
def test_a23_a_worker_process_that_is_stopped_falls_silent(make: Make, executor: str, clock: Later) -> None:
    if executor != "process":
        pytest.skip("a thread cannot be stopped alone")
    model = Toy()
    ckpt = make(model=model)
    saving(ckpt, model, 1).wait()
    worker = worker_of(ckpt)
    os.kill(worker, signal.SIGSTOP)
    try:
        clock.by = 100
        found = ckpt.health()
        assert found.worker == "silent"
        assert any("has given no sign for 1" in problem for problem in found.problems)
    finally:
        os.kill(worker, signal.SIGCONT)


def test_a23_a_worker_that_died_is_dead_and_the_next_save_has_another(
    make: Make, store: GatedStorage, executor: str
) -> None:
    model = Toy()
    ckpt = make(model=model)
    saving(ckpt, model, 1).wait()
    if executor == "process":
        os.kill(worker_of(ckpt), signal.SIGKILL)
        ckpt.save(2).wait(PATIENCE)
        assert ckpt.health().worker_starts == 2
    else:
        store.fail("put", "*.safetensors", lambda: SystemExit("it shall die"), times=1)
        with pytest.raises(SaveFailed):
            saving(ckpt, model, 2).wait()
        pool = ckpt._executor.pool
        pool._worker.thread.join(PATIENCE)
        for _ in range(2):  # the first look has not brought it back
            found = ckpt.health(within=PATIENCE)
            assert found.worker == "dead"
            assert "the background worker is dead: the next save starts another" in found.problems
        ckpt.save(2).wait()
    assert ckpt.health(within=PATIENCE).worker == "alive"


def test_a23_to_look_starts_nothing(make: Make, executor: str) -> None:
    ckpt = make(model=Toy())
    found = ckpt.health(within=PATIENCE)
    if executor == "thread":
        assert (found.worker, found.storage, found.problems) == ("idle", "unknown", ())
        assert ckpt._executor.pool.is_alive is None
    else:
        assert found.storage == "reachable", "another thread looks"


def test_a23_what_is_told_is_a_value() -> None:
    found = Health((), "idle", 0, 0, 0, None, None, None, None, 0, "unknown", None, None, ())
    with pytest.raises(AttributeError):
        setattr(found, "worker", "alive")  # noqa: B010


# -- profile -----------------------------------------------------------------------------------------------


def test_a24_every_save_has_its_stages(make: Make) -> None:
    ckpt = make(model=Toy())
    for step in (1, 2, 3):
        ckpt.save(step).wait()
    ckpt.close()
    found = ckpt.profile()
    assert [(save.step, save.outcome) for save in found.saves] == [(step, "durable") for step in (1, 2, 3)]
    for save in found.saves:
        assert {"open", "write", "stage", "report", "commit"} <= save.phases.keys()
        assert save.call is not None
        assert save.total is not None
        assert 0 < save.call <= save.total
        assert sum(save.phases.values()) <= save.total
        assert save.bytes >= 256
    assert found.median()["total"] == sorted(save.total or 0.0 for save in found.saves)[1]
    assert tuple(SaveTimes(**row) for row in json.loads(json.dumps(found.json()))) == found.saves
    lines = str(found).splitlines()
    assert lines[0].split()[:4] == ["step", "outcome", "call", "guard"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3", "median"]
    assert len({len(line) for line in lines}) == 1, "columns"


def test_a24_what_fails_is_superseded_or_is_saved_again_has_a_row_of_its_own() -> None:
    profiler = Profiler()
    for event in (
        Requested(1),
        Stalled(1, 0.25, "call"),
        Failed(1, "write", OSError()),
        Requested(1),
        Stalled(1, 0.5, "call"),
        Stalled(1, 1.0, "guard"),
        Stalled(1, 2.0, "guard"),
        Requested(2),
        Superseded(2, 3),
        Requested(4, ValueError()),
        Durable(1, 7, 100, 4.0, 0.0, {}, 60, {"write": 3.0}, 0.5),
        Staged(1, 100, 1.5),
        Staged(99, 1, 1.0),
    ):
        profiler.on_event(event)
    failed, again, superseded = profiler.profile().saves
    assert (failed.outcome, failed.call, failed.total) == ("failed", 0.25, None)
    assert (again.outcome, again.call, again.guard, again.staged, again.total) == ("durable", 0.5, 3.0, 1.5, 4.0)
    assert (again.phases, again.rested, again.bytes, again.written) == ({"write": 3.0}, 0.5, 100, 60)
    assert (superseded.step, superseded.outcome) == (2, "superseded")
    assert "3000.0 ms" in str(profiler.profile())
    profiler.on_event(Requested(5))
    profiler.on_event(Durable(5, 8, 100, 4.0, 0.0))  # of which nothing else was heard
    assert profiler.profile().median()["call"] == 0.25


def test_a24_the_report_has_a_column_for_each_stage_and_a_median_of_what_is_durable() -> None:
    profiler = Profiler()
    phases = {"open": 0.001, "write": 0.002, "queue": 0.003, "stage": 0.004, "report": 0.005, "commit": 0.006}
    for step, factor in ((1, 1), (2, 3), (3, 2)):
        profiler.on_event(Requested(step))
        profiler.on_event(Stalled(step, 0.01 * factor, "call"))
        profiler.on_event(Stalled(step, 0.02 * factor, "guard"))
        profiler.on_event(Staged(step, 4_000_000, 0.03 * factor))
        times = {name: seconds * factor for name, seconds in phases.items()}
        profiler.on_event(Durable(step, step, 4_000_000, 0.5 * factor, 0.0, {}, 1_500_000, times))
    profiler.on_event(Requested(4))
    profiler.on_event(Failed(4, "write", OSError()))
    profiler.on_event(Requested(5))
    found = profiler.profile()
    stages = ["call", "guard", "staged", *phases, "total"]
    middle = [0.02, 0.04, 0.06, *(2 * seconds for seconds in phases.values()), 1.0]
    assert found.median() == pytest.approx(dict(zip(stages, middle, strict=True)))
    head, first, *_, failed, under_way, median = str(found).splitlines()
    assert re.split(" {2,}", head.strip()) == ["step", "outcome", *stages, "MB", "MB written"]
    times = "10.0 ms  20.0 ms  30.0 ms  1.0 ms  2.0 ms  3.0 ms  4.0 ms  5.0 ms  6.0 ms  500.0 ms"
    assert re.split(" {2,}", first.strip()) == ["1", "durable", *times.split("  "), "4.0", "1.5"]
    assert failed.split() == ["4", "failed", *["-"] * 12]
    assert under_way.split() == ["5", "under", "way", *["-"] * 12]
    assert re.split(" {2,}", median.strip())[:4] == ["median", "20.0 ms", "40.0 ms", "60.0 ms"]


def test_a24_only_recent_ones_are_remembered_and_none_is_a_header() -> None:
    profiler = Profiler()
    assert len(str(profiler.profile()).splitlines()) == 1
    for step in range(1, 500):
        profiler.on_event(Requested(step))
    assert [save.step for save in profiler.profile().saves] == list(range(400, 500))


def test_a23_a_save_is_stuck_by_what_others_took_and_what_was_passed_over_is_not(make: Make, clock: Later) -> None:
    vitals, ckpt = Vitals(clock), make(model=Toy())
    ckpt.save(1).wait()  # a worker is there
    checkup = Checkup(vitals, Levels, ckpt._executor, clock)
    for event in (Requested(1), Skipped(1), Requested(2), Superseded(2, 3), Fallback("links", "there are none")):
        vitals.on_event(event)
    clock.by = 1000
    found = checkup.health(PATIENCE)
    assert (found.problems, found.oldest, found.fallbacks) == ((), None, ("links: there are none",))
    vitals.on_event(Durable(3, 1, 100, 200.0, 0.0))
    vitals.on_event(Requested(4))
    clock.by = 2000
    assert checkup.health(PATIENCE).problems == (), "they took 200 s"
    clock.by = 4000
    (problem,) = checkup.health(PATIENCE).problems
    assert problem.startswith("the save of step 4 is under way for 30")
    assert problem.endswith(" s, where others took 200.0 s")


def test_a23_two_saves_of_one_step_are_two(clock: Later) -> None:
    """Where the first is held up and the second is made by hand, the end of one is not that of the other."""
    vitals = Vitals(clock)
    vitals.on_event(Requested(5))
    clock.by = 10.0
    vitals.on_event(Requested(5))
    vitals.on_event(Failed(5, "write", OSError()))
    found = vitals.oldest()
    assert found is not None
    assert found[0] == 5
    assert found[1] < 10.0, "the second"
    vitals.on_event(Failed(5, "write", OSError()))
    assert vitals.oldest() is None
