"""A worker process keeps off the cores of training where there are enough, and says how it found itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry

from asyncckpt import MetricsConfig, ProcessConfig
from asyncckpt.events import WorkerRuns
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker.process import cores, priority
from asyncckpt.worker.process.cores import kept_to, parsed, shown, siblings_in

from ..checkpointer.scraping import scrape, value
from ..checkpointer.trainings import Recorder, Toy, worker_of
from .conftest import Make

# -- which -------------------------------------------------------------------------------------------------


def every(count: int) -> frozenset[int]:
    return frozenset(range(count))


PAIRS = {core: (core % 8, core % 8 + 8) for core in range(16)}
"""Sixteen logical cores that are eight."""


@pytest.mark.parametrize(
    ("allowed", "main", "computing", "siblings", "found"),
    [
        pytest.param(every(16), every(16), 4, {}, "4-15", id="as many are left to training as it computes on"),
        pytest.param(every(16), every(16), 14, {}, "14-15", id="two are enough for a worker"),
        pytest.param(every(16), every(16), 15, {}, "0-15", id="one is not: it may use all"),
        pytest.param(every(16), every(16), 64, {}, "0-15", id="training computes on all"),
        pytest.param(every(2), every(2), 1, {}, "0-1", id="a small machine"),
        pytest.param(every(1), every(1), 1, {}, "0", id="a single core"),
        pytest.param(every(16), every(16), 3, PAIRS, "3-7,11-15", id="whole cores are left to it"),
        pytest.param(every(16), every(16), 8, PAIRS, "0-15", id="siblings of its cores are not others"),
        pytest.param(every(8), every(8), 7, PAIRS, "0-7", id="those that it may not use count for nothing"),
        pytest.param(frozenset({2, 3, 9, 12}), frozenset({2, 3, 9, 12}), 2, {}, "9,12", id="a part of the machine"),
        pytest.param(every(4), frozenset({0}), 1, {}, "1-3", id="the main thread is bound"),
        pytest.param(every(2), frozenset({1}), 64, {}, "0", id="it is bound, and keeps that in any case"),
    ],
)
def test_a_worker_keeps_to(
    allowed: frozenset[int],
    main: frozenset[int],
    computing: int,
    siblings: Mapping[int, tuple[int, ...]],
    found: str,
) -> None:
    assert shown(kept_to(allowed, main, computing, siblings)) == found


@pytest.mark.parametrize(("text", "found"), [("0\n", {0}), ("0-3,8", {0, 1, 2, 3, 8}), ("", set())])
def test_lists_are_read_and_written_as_the_kernel_does(text: str, found: set[int]) -> None:
    assert parsed(text) == found
    assert shown(found) == text.strip()


def test_siblings_are_what_the_system_says_and_none_where_it_does_not(tmp_path: Path) -> None:
    for core, text in ((0, "0,8\n"), (1, "?")):
        (tmp_path / f"cpu{core}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}/topology/thread_siblings_list").write_text(text)
    assert siblings_in(tmp_path, [0, 1, 2]) == {0: {0, 8}}


def test_the_worker_keeps_off_the_core_that_the_main_thread_is_bound_to() -> None:
    code = (
        "import os, threading; everything = os.sched_getaffinity(0)\n"
        "started, ending = threading.Event(), threading.Event()\n"
        "threading.Thread(target=lambda: (started.set(), ending.wait())).start(); started.wait()\n"
        "os.sched_setaffinity(0, {min(everything)})\n"
        "from asyncckpt.worker.process.priority import cores_for_worker\n"
        "found = cores_for_worker(1)\n"
        "assert found == everything - {min(everything)} or everything, found\n"
        "ending.set()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- a real one --------------------------------------------------------------------------------------------


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training computes in one thread, and a worker has enough of one core; none is a part of another."""
    monkeypatch.setattr(cores, "ENOUGH", 1)
    monkeypatch.setattr(priority.cores, "siblings_in", lambda system, cores: {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core for both")
@pytest.mark.usefixtures("one_thread")
def test_P5_the_worker_of_a_training_that_is_not_bound_leaves_a_core_to_it_and_so_does_the_next(
    make: Make, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asyncckpt")
    registry = CollectorRegistry()
    usable = os.sched_getaffinity(0)
    others = usable - {min(usable)}
    ckpt = make(model=Toy(), metrics=MetricsConfig(port=None, registry=registry), executor=ProcessConfig(nice=5))
    ckpt.save(1).wait()
    first = worker_of(ckpt)
    assert os.sched_getaffinity(first) == others
    for thread in os.listdir(f"/proc/{first}/task"):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            assert os.sched_getaffinity(int(thread)) == others
    assert os.sched_getaffinity(0) == usable  # training may use all of them
    os.kill(first, signal.SIGKILL)
    ckpt.save(2).wait(PATIENCE)
    second = worker_of(ckpt)
    assert os.sched_getaffinity(second) == others
    nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)
    told = recorder.of(WorkerRuns)
    assert [event.pid for event in told] == [first, second]
    assert {(event.nice, event.cpus, event.spared) for event in told} == {(nice, tuple(sorted(others)), (min(usable),))}
    assert all(event.seconds > 0 for event in told)
    assert f"at nice {nice}, on cores {shown(others)} ({min(usable)} are left to training)" in caplog.text
    found = scrape(registry)
    assert value(found, "asyncckpt_worker_starts_total") == 2
    assert value(found, "asyncckpt_worker_nice") == nice
    assert value(found, "asyncckpt_worker_cores", state="used") == len(others)
    assert value(found, "asyncckpt_worker_cores", state="spared") == 1
    assert value(found, "asyncckpt_worker_start_seconds") == told[-1].seconds


def test_P5_where_training_computes_on_all_the_worker_may_use_all(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1 << 10)
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    assert os.sched_getaffinity(worker_of(ckpt)) == os.sched_getaffinity(0)
    assert recorder.of(WorkerRuns)[0].spared == ()
