"""The worker's side alone: a trainer whose death is noticed before its last words are read."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from asyncckpt.events import Leftover
from asyncckpt.storage import LocalStorage
from asyncckpt.worker.commitlog.past import Past
from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.job import SaveJob
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.channel import Channel
from asyncckpt.worker.process.host import Host

from ..worker.drive import Session, image, steps

LAYOUT, ARENA = image({("a",): b"bytes"})


def dead() -> int:
    """The number of a process that has ended, and that nobody else can have."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.returncode = 0  # it stays a zombie of ours
    return process.pid


def config(root: Path, past: Past, trainer: int) -> wire.Message:
    recipe = LocalStorage(root).recipe()
    limits = {"deadline": 60, "adopt_timeout": 0, "log": ""}
    return {
        "trainer": trainer,
        "recipe": list(recipe or ()),
        "keep": None,
        "monitor": None,
        "overwrite": False,
        "codec": "none",
        "incremental": True,
        "code_version": None,
        "tiers": {},
        "ranks": None,
        "share": 1.0,
        "beat": 60.0,
        "past": wire.past_json(past),
        **limits,
    }


def memory() -> Descriptor:
    arena = Descriptor(os.memfd_create("asyncckpt-arena"))
    os.write(arena.fileno(), ARENA)
    return arena


def test_P5_what_a_dead_trainer_had_said_is_read_before_anything_is_given_up(tmp_path: Path) -> None:
    trainer = dead()

    async def act() -> list[int]:
        former = Session(LocalStorage(tmp_path))
        await former.saved(1)
        await former.abandon()
        ours, theirs = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        job = SaveJob("job", 2, 2, None, {}, 2_000_000, "arena", LAYOUT)
        ours.post({"kind": "arena", "arena": "arena", "bytes": len(ARENA), "windowed": False}, [memory()])
        ours.post({"kind": "layout", "layout": 1, "as": wire.layout_json(LAYOUT)})
        token = Descriptor(os.eventfd(1, os.EFD_NONBLOCK))
        said = {"job": wire.job_json(job), "layout": 1, "repeated": False, "windowed": False, "landed": False}
        ours.post({"kind": "job", **said}, [token])
        ours.post({"kind": "seal", "job": "job"})
        await Host(theirs, config(tmp_path, former.service.past, trainer)).run()
        ours.close()
        theirs.close()
        return await steps(LocalStorage(tmp_path))

    assert asyncio.run(act()) == [1, 2]
    os.waitpid(trainer, 0)


def test_what_goes_wrong_is_the_trainers_to_write_while_it_lives_and_the_workers_after_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, left = dead(), Leftover("the start's sweep", OSError("denied"))

    async def act() -> list[str]:
        ours, theirs = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        former = Session(LocalStorage(tmp_path))
        await former.abandon()
        host = Host(theirs, config(tmp_path, former.service.past, trainer))
        host.on_event(left)
        said = [message["kind"] for message, _ in ours.receive()]
        assert caplog.records == []
        await host.run()
        host.on_event(left)
        ours.close()
        theirs.close()
        return said

    assert asyncio.run(act()) == ["event"]
    os.waitpid(trainer, 0)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "left undone, which harms no checkpoint: the start's sweep: denied"
