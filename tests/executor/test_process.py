"""The worker process itself: what it is made of, how it gives way, what it holds, and when there is none."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, MetricsConfig, Preemption, ProcessConfig, RetentionPolicy, SavePolicy
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.construction.weighing import LEAST, WORTH
from asyncckpt.events import Durable, Fallback, Weighed
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker.process.bridge import ProcessExecutor

from ..checkpointer.trainings import Recorder, Toy, Training, refuse_threads, steps, worker_of
from .conftest import Clock, Make


def maps(process: int) -> str:
    return Path(f"/proc/{process}/maps").read_text()


def test_P5_the_worker_is_a_process_without_torch(make: Make) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    ckpt.restore(1)
    worker = worker_of(ckpt)
    assert worker != os.getpid()
    assert "torch" in maps(os.getpid())
    assert "torch" not in maps(worker)
    assert "numpy" not in maps(worker)


def test_P5_nothing_that_a_worker_imports_imports_torch() -> None:
    code = "import sys, asyncckpt.worker.__main__; print('torch' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["False", "False"]


def test_a_module_in_the_working_directory_is_not_the_workers(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert make(tmp_path / "run", model=Toy()).save(1).wait(PATIENCE).step == 1


@pytest.mark.parametrize("nice", [0, 7])
def test_the_worker_gives_way_as_much_as_it_is_told(make: Make, nice: int) -> None:
    ckpt = make(model=Toy(), executor=ProcessConfig(nice=nice))
    ckpt.save(1).wait()
    worker = worker_of(ckpt)
    assert os.getpriority(os.PRIO_PROCESS, worker) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + nice)
    assert os.getsid(worker) == os.getsid(0)  # in a session of its own its nice would order nothing
    assert os.getpgid(worker) == worker
    if platform.machine() == "x86_64":
        ioprio_get = 252
        assert ctypes.CDLL(None).syscall(ioprio_get, 1, worker) == ((2 << 13 | 7) if nice else 0)


def test_P5_signals_that_end_a_training_politely_do_not_end_the_worker(make: Make) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    worker = worker_of(ckpt)
    polite = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU}
    for number in polite | set(Preemption().numbers()):  # Slurm signals every process of a step
        os.kill(worker, number)
    assert ckpt.save(2).wait().step == 2
    assert worker_of(ckpt) == worker


FORKED = """
import os, sys
import torch
from asyncckpt import AsyncCheckpointer
ckpt = AsyncCheckpointer(sys.argv[1], model=torch.nn.Linear(8, 8), executor="process")
ckpt.save(1).wait()
before = set(os.listdir("/proc/self/fd"))
child = os.fork()
if child == 0:
    with os.scandir("/proc/self/fd") as found:
        held = [os.readlink(entry.path) for entry in found]
    mapped = open("/proc/self/maps").read()
    channel = ckpt._executor._exchange.link.channel
    print([name for name in held if "memfd" in name], "memfd:asyncckpt" in mapped, channel.fileno(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(ckpt.save(2).wait().step)
ckpt.close()
"""


def test_P5_a_forked_child_holds_neither_arenas_nor_the_socket(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path / "run")], check=True, capture_output=True, text=True
    )
    assert found.stdout.splitlines() == ["[] False -1", "2"]


def held(process: int) -> dict[str, int]:
    """What a process holds that must not grow."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {
        "descriptors": len(os.listdir(f"/proc/{process}/fd")),
        "threads": int(status["Threads"]),
        "arenas": maps(process).count("memfd:asyncckpt-arena"),
        "mappings": len(maps(process).splitlines()),
        "private": int(status["RssAnon"].split()[0]) // 1024,
    }


@pytest.mark.long
@pytest.mark.kills
def test_P5_a_thousand_saves_leave_both_processes_as_they_were(make: Make, tmp_path: Path) -> None:
    training, last = Training(), RetentionPolicy(last=3)
    # It need not give way to other tests: a thousand saves would take minutes.
    options: dict[str, Any] = {"executor": ProcessConfig(nice=0), "keep": last, "listeners": ()}
    ckpt = make(tmp_path / "run", model=training.model, optimizer=training.optimizer, **options)
    ckpt.resume()

    def save(first: int, last: int) -> list[dict[str, int]]:
        for step in range(first, last):
            training.step()
            ckpt.save(step)
        ckpt.wait()
        gc.collect()
        return [held(os.getpid()), held(worker_of(ckpt))]

    before = save(1, 200)
    after = save(200, 1200)
    deadline = time.monotonic() + PATIENCE
    while any(late["descriptors"] > early["descriptors"] for early, late in zip(before, after, strict=True)):
        assert time.monotonic() < deadline, (before, after)
        after = [held(os.getpid()), held(worker_of(ckpt))]  # one may be open for a moment; what leaks stays
    for early, late in zip(before, after, strict=True):
        assert late["arenas"] <= early["arenas"], (before, after)
        # Pools begin a thread when all they have are at work, up to four; and this process has other tests' threads.
        assert late["threads"] <= early["threads"] + 4, (before, after)
        assert late["mappings"] <= early["mappings"] + 32, (before, after)  # each thread has a stack, and its own heap
        assert late["private"] <= early["private"] + 8, (before, after)


def tokens() -> int:
    """How many of the eventfds there are that trainer and worker agree by."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventfd]"
    return found


def test_descriptors_of_saves_that_are_over_do_not_wait_for_the_garbage_collector(make: Make) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    ckpt.wait()
    gc.disable()
    try:
        before = tokens()
        for step in range(2, 12):
            ckpt.save(step).wait()
        ckpt.wait()
        assert tokens() <= before
    finally:
        gc.enable()


def test_an_arena_that_is_gone_is_gone_in_the_worker_too(make: Make) -> None:
    state = {"values": torch.zeros(1000)}

    class Growing:
        def state_dict(self) -> dict[str, Any]:
            return dict(state)

        def load_state_dict(self, found: dict[str, Any]) -> None: ...

    ckpt = make(extra={"growing": Growing()})
    for step in range(1, 11):
        state["values"] = torch.zeros(100_000 * step)
        ckpt.save(step).wait()
    gc.collect()
    ckpt.save(11).wait()
    ckpt.wait()
    # Of twenty that there were: two to copy into, the last one, and with Python 3.13 the first until it is collected.
    assert maps(worker_of(ckpt)).count("memfd:asyncckpt-arena") <= 4
    assert steps(ckpt) == list(range(1, 12))


# -- which executor ----------------------------------------------------------------------------------------


SLOW, FAST = LEAST / WORTH, 4 * LEAST / WORTH
"""Bytes digested per second, by which `big` is worth a process and is not."""


def digests(patch: pytest.MonkeyPatch, rate: float) -> None:
    """From now on this machine is found to digest so many bytes per second."""
    patch.setattr("asyncckpt.construction.weighing.digest_rate", lambda: rate)


def big() -> torch.nn.Module:
    return torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(2 * LEAST // 4))])


def test_auto_takes_a_process_for_what_takes_long_to_digest_here_and_says_why(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asyncckpt")
    model = big()
    digests(monkeypatch, SLOW)
    with AsyncCheckpointer(tmp_path / "slow", model=model, listeners=[recorder]) as ckpt:
        assert isinstance(ckpt._executor, ProcessExecutor)
        assert ckpt.save(1).wait().step == 1
    digests(monkeypatch, FAST)
    with AsyncCheckpointer(tmp_path / "fast", model=model, listeners=[recorder]) as ckpt:
        assert not isinstance(ckpt._executor, ProcessExecutor)
    found = recorder.of(Weighed)
    assert found == [
        Weighed("process", 2 * LEAST, LEAST, SLOW),
        Weighed("thread", 2 * LEAST, 4 * LEAST, FAST),
    ]
    said = [record.getMessage() for record in caplog.records if "executor='auto'" in record.getMessage()]
    assert [f"{event.break_even:,}" in line and "GB/s" in line for event, line in zip(found, said, strict=True)] == [
        True,
        True,
    ]


def test_auto_takes_a_thread_for_what_is_small(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path / "small", model=Toy(), save=SavePolicy(every_steps=1)) as ckpt:
        assert not isinstance(ckpt._executor, ProcessExecutor)


def test_auto_counts_the_state_that_an_optimizer_will_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests(monkeypatch, SLOW)
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(LEAST // 8))])
    with AsyncCheckpointer(tmp_path / "run", model=model, optimizer=torch.optim.Adam(model.parameters())) as ckpt:
        assert isinstance(ckpt._executor, ProcessExecutor)


@pytest.mark.parametrize("wanted", ["process", "auto", ProcessConfig()])
def test_where_no_process_can_be_had_a_thread_is_taken_visibly(
    recorder: Recorder, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests(monkeypatch, SLOW)
    model = big() if wanted == "auto" else Toy()
    with AsyncCheckpointer(MemoryStorage("here"), model=model, executor=wanted, listeners=[recorder]) as ckpt:
        assert ckpt.save(1).wait().step == 1
    (fallback,) = [event for event in recorder.of(Fallback) if event.feature == "executor"]
    assert fallback.reason.startswith("no other process can have the storage at memory://here")
    assert len(recorder.of(Durable)) == 1


def test_a_machine_without_another_thread_for_the_bridge_saves_as_without_a_process(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refuse_threads(patch, "asyncckpt-bridge")
        ckpt = make(model=Toy())
    assert ckpt.save(1).wait().step == 1
    (fallback,) = [event for event in recorder.of(Fallback) if event.feature == "executor"]
    assert "can't start new thread" in fallback.reason


UNBOUNDED = [
    {name: float(value)} for name in ("deadline", "adopt_timeout", "answer_timeout") for value in ("nan", "inf", "1e30")
]


@pytest.mark.parametrize("wrong", [{"nice": 20}, {"nice": -1}, {"deadline": -1}, *UNBOUNDED])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ProcessConfig(**wrong)


# -- signs of life -----------------------------------------------------------------------------------------


def test_a_worker_that_is_stopped_is_said_to_be_silent_and_its_saves_wait(
    make: Make, recorder: Recorder, clocks: list[Clock]
) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    worker = worker_of(ckpt)
    assert not recorder.of(Fallback)
    os.kill(worker, signal.SIGSTOP)
    clocks[-1].runs = True
    handle = ckpt.save(2)
    told = recorder.wait_for(Fallback)
    os.kill(worker, signal.SIGCONT)
    assert handle.wait(PATIENCE).step == 2
    assert worker_of(ckpt) == worker
    assert {event.feature for event in told} == {"worker"}
    assert f"the worker process {worker} has given no sign for" in told[0].reason


def test_its_heart_beats_into_a_metric(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    ckpt = make(tmp_path / "run", model=Toy(), metrics=MetricsConfig(port=None, registry=registry))
    ckpt.save(1).wait()

    def beat() -> float:
        return registry.get_sample_value("asyncckpt_worker_heartbeat_timestamp_seconds") or 0.0

    assert 0 < beat() <= SYSTEM_CLOCK.time()
    thread = make(tmp_path / "other", model=Toy(), executor="thread")
    assert thread._saver.levels().heard == 0
