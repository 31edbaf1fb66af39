"""A worker ends also where nobody tells it to: without a word from its trainer, and with a loop that hangs."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from asyncckpt.storage import LocalStorage
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker import __main__ as worker
from asyncckpt.worker.process import priority, watchdog
from asyncckpt.worker.process.channel import Channel

from ..worker.drive import Session
from .test_host import config, dead
from .test_orphans import ended

STARTS = """
import os, socket, subprocess, sys
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
program = "from asyncckpt.worker import __main__ as worker; worker.PATIENCE = 3600; worker.main()"
command = [sys.executable, "-P", "-c", program, "--fd", str(theirs.fileno())]
process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), process_group=0, stdout=subprocess.DEVNULL)
print(process.pid, flush=True)
if os.fork():
    os._exit(0)
os.read(0, 1)  # a child that was forked meanwhile, as by a data loader, and holds the socket
"""


def test_P5_a_trainer_that_dies_before_it_says_anything_leaves_no_worker() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as trainer:
        assert trainer.stdout is not None
        number = int(trainer.stdout.readline())
        assert trainer.wait(PATIENCE) == 0
        try:
            assert ended(number)
        finally:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def test_P5_a_trainer_that_says_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "PATIENCE", 0.01)
    ours, theirs = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    assert worker._config(theirs, os.getpid()) is None
    assert "has not said in 0.01 s what there is to do" in caplog.text
    ours.post({"kind": "config"})
    assert worker._config(theirs, os.getpid()) == {"kind": "config"}
    ours.post({"kind": "config"})
    assert worker._config(theirs, 1 << 22) == {"kind": "config"}  # the last words of one that is dead
    ours.close()
    theirs.close()


class _Dying:
    """A poll at whose first wait the trainer dies."""

    def __init__(self, trainer: subprocess.Popen[bytes]) -> None:
        self._trainer = trainer
        self._poll = select.poll()
        self.register = self._poll.register

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        assert self._trainer.poll() is None, "its trainer's death has not woken it"
        self._trainer.kill()
        self._trainer.wait()
        return self._poll.poll(0)


def test_P5_a_trainer_that_dies_while_its_first_word_is_waited_for_wakes_its_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end of the socket is open still, as in a child that it has forked."""
    trainer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    dying = _Dying(trainer)
    monkeypatch.setattr(worker, "select", SimpleNamespace(POLLIN=select.POLLIN, poll=lambda: dying))
    ours, theirs = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    try:
        assert worker._config(theirs, trainer.pid) is None
        assert f"the trainer (process {trainer.pid}) is gone: this worker ends" in caplog.text
    finally:
        trainer.kill()
        trainer.wait()
        ours.close()
        theirs.close()


HANGS = """
import sys, time
from asyncckpt.worker.process import watchdog
watchdog.GRACE = 0
print("here", flush=True)
watchdog.watch(int(sys.argv[1]), 0.01)
time.sleep(3600)  # as a call of a store's that does not return
"""


@pytest.mark.parametrize("is_dead", [False, True])
def test_P5_a_worker_whose_loop_hangs_ends_after_its_deadline_all_the_same(is_dead: bool) -> None:
    trainer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    if is_dead:
        trainer.kill()
        trainer.wait()
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, str(trainer.pid)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as hanging:
        try:
            assert hanging.stdout is not None
            assert hanging.stdout.readline() == "here\n"
            if not is_dead:
                assert hanging.poll() is None
                trainer.kill()
                trainer.wait()
            assert hanging.wait(PATIENCE) == 1
            assert hanging.stderr is not None
            assert "after its trainer died this worker hangs still" in hanging.stderr.read()
        finally:
            hanging.kill()
            trainer.kill()
            trainer.wait()


def test_P5_every_worker_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[tuple[int, float]] = []
    monkeypatch.setattr(watchdog, "watch", lambda *given: watched.append(given))
    trainer = dead()

    async def act() -> int:
        former = Session(LocalStorage(tmp_path))
        await former.abandon()
        ours, theirs = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        lost = await worker._serve(theirs, {**config(tmp_path, former.service.past, trainer), "keys": []})
        ours.close()
        theirs.close()
        return lost

    assert asyncio.run(act()) == 0
    os.waitpid(trainer, 0)
    assert watched == [(trainer, 60)]


@pytest.mark.parametrize("fails", ["sched_setaffinity", "nice", "io"])
def test_what_cannot_be_had_of_its_priority_is_said_and_the_rest_is_had(
    fails: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    had: list[str] = []

    def ask(what: str) -> None:
        if what == fails:
            raise PermissionError("not here")
        had.append(what)

    monkeypatch.setattr(priority.os, "sched_setaffinity", lambda *given: ask("sched_setaffinity"))
    monkeypatch.setattr(priority.os, "nice", lambda *given: ask("nice"))
    monkeypatch.setattr(priority, "_lower_io", lambda: ask("io"))
    priority.give_way(5, {0})
    assert had == [what for what in ("sched_setaffinity", "nice", "io") if what != fails]
    assert caplog.text.count("not here") == 1


PIPED = """
import json, os, sys
from contextlib import suppress
import torch
from asyncckpt import AsyncCheckpointer
with AsyncCheckpointer(sys.argv[1], model=torch.nn.Linear(8, 8), executor="process") as ckpt:
    ckpt.save(1).wait()
    worker = ckpt._executor._exchange.link.process.pid
    links = [f"/proc/{worker}/fd/{number}" for number in range(1024)]
    held = []
    for link in links:
        with suppress(FileNotFoundError):  # none of that number, or none any more
            held.append(os.readlink(link))
    standard = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
    print(json.dumps([standard, held, os.readlink(links[2])]))
"""


def test_P5_a_worker_holds_none_of_its_trainers_pipes(tmp_path: Path) -> None:
    """``train | tee`` ends with the training, though a worker lives on."""
    found = subprocess.run(
        [sys.executable, "-c", PIPED, str(tmp_path / "run")], input="", capture_output=True, check=True, text=True
    )
    standard, held, log = json.loads(found.stdout)
    assert all(name.startswith("pipe:") for name in standard)
    assert set(standard).isdisjoint(held)
    assert log.endswith(".log")
