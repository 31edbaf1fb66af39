"""Link: one worker process, from its start to its end, and what it was told."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from asyncckpt.worker import failures
from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.vigil import Vigil
from asyncckpt.worker.process.wire import Message

if sys.platform == "linux":
    from asyncckpt.worker import logs
    from asyncckpt.worker.process.channel import Channel
    from asyncckpt.worker.process.pending import Pending

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

FAREWELL = 5.0
"""Seconds for which a process that has closed its socket may take to end before it is killed."""

_unended: list[subprocess.Popen[bytes]] = []
"""Those that were killed and have not ended: nobody waits for them, and nobody is warned of that."""


class Link:
    """A worker process for `root`, started and told its configuration, and to give a sign of life every `beat` seconds.

    Raises `OSError` where none can be had.
    """

    def __init__(self, root: str, config: Message, beat: float) -> None:
        self._began = time.monotonic()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            with logs.begun(root) as log:
                self.process = _started(theirs.fileno(), log.descriptor)
            self.log: Path = log.path
            self.channel = Channel(socket.socket(fileno=ours.detach()))
        self._ended = Descriptor(os.pidfd_open(self.process.pid))
        self._beat = beat
        self._vigil = Vigil(beat, time.monotonic)
        self.is_ready = False
        self._arenas: set[str] = set()
        self._layouts: set[int] = set()
        self.channel.post({"kind": "config", "protocol": wire.PROTOCOL, "log": str(self.log), "beat": beat, **config})

    # -- telling: from any thread, one at a time -----------------------------------------------------------

    def give(self, pending: Pending) -> None:
        """Send a job, and what it needs to be carried out."""
        job, memory = pending.ticket.job, pending.ticket.memory
        pending.is_given = True
        if memory is not None and job.arena not in self._arenas:
            size, windowed = len(pending.ticket.view), pending.ticket.watermark.is_windowed
            self.channel.post({"kind": "arena", "arena": job.arena, "bytes": size, "windowed": windowed}, [memory])
            self._arenas.add(job.arena)
        if pending.layout not in self._layouts:
            self.channel.post({"kind": "layout", "layout": pending.layout, "as": wire.layout_json(pending.shape)})
            self._layouts.add(pending.layout)
        windowed = pending.ticket.watermark.is_windowed
        landed = pending.ticket.landed
        said = {"job": pending.said, "layout": pending.layout, "repeated": pending.is_repeated, "windowed": windowed}
        self.channel.post({"kind": "job", "landed": landed, **said}, [pending.token])
        self.follow(pending)

    def follow(self, pending: Pending) -> None:
        """Say how far the snapshot of a job has come."""
        mark = pending.ticket.watermark
        if pending.is_settled:
            return
        if mark.is_sealed:
            pending.is_settled = True
            self.channel.post({"kind": "seal", "job": pending.id}, sent=lambda: self._sealed(pending))
        elif mark.error is not None:
            pending.is_settled = True
            self.channel.post({"kind": "abort", "job": pending.id, "error": failures.encode(mark.error)})
        else:
            self.channel.offer({"kind": "ready", "job": pending.id, "upto": mark.reached})

    def _sealed(self, pending: Pending) -> None:
        pending.is_sealed = True
        if self.is_ready:
            pending.keep()

    def ready(self, jobs: Iterable[Pending]) -> None:
        """From now on it commits what is complete whether or not this process lives; `jobs` are those it has."""
        self.is_ready = True
        for pending in jobs:
            if pending.is_sealed:
                pending.keep()

    def forget_arena(self, arena: str) -> None:
        """The memory is there no more."""
        if arena in self._arenas:
            self._arenas.discard(arena)
            self.channel.post({"kind": "drop", "arena": arena})

    def forget_layouts(self, but: set[int]) -> None:
        """No other layout than these will be used again."""
        for layout in self._layouts - but:
            self._layouts.discard(layout)
            self.channel.post({"kind": "drop", "layout": layout})

    # -- watching: in one thread ---------------------------------------------------------------------------

    def wait(self, wake: Descriptor) -> bool:
        """Return once there is something to receive or to do, or after a beat; whether the process is there still."""
        poll = select.poll()
        poll.register(wake.fileno(), select.POLLIN)
        poll.register(self._ended.fileno(), select.POLLIN)
        writing = self.channel.is_waiting and not self.channel.is_broken
        if not self.channel.is_ended:
            poll.register(self.channel.fileno(), select.POLLIN | (select.POLLOUT if writing else 0))
        ready = [number for number, _ in poll.poll(self._beat * 1000)]
        return self._ended.fileno() not in ready

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    @property
    def silence(self) -> float:
        """Seconds for which the process has said nothing, see `Vigil`."""
        return self._vigil.silence

    def receive(self) -> Iterator[tuple[Message, list[Descriptor]]]:
        """What it has said since."""
        self._vigil.look()
        for received in self.channel.receive():
            self._vigil.heard()
            yield received

    def kill(self) -> None:
        """End it at once, unless the kernel holds it."""
        self.process.kill()

    def _waited(self) -> int | None:
        try:
            return self.process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> str:
        """The process has ended, or is to: reap it, and say how it ended. What it had sent must have been received."""
        status = self._waited()
        if status is None:
            self.kill()
            status = self._waited()
        self.channel.close()
        self._ended.close()
        if status is None:  # in the kernel, and it will do nothing more than what it is doing there
            _unended.append(self.process)
            how = "does not end although it was killed: its machine or store holds it"
        else:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last = logs.said(self.log)
        return f"the worker process {self.process.pid} {how}" + (f": {last} (log: {self.log})" if last else "")


def _started(socket_: int, log: int) -> subprocess.Popen[bytes]:
    # A group of its own, so that what is sent to the trainer's does not reach it; and not a session of its own, within
    # which its priority would mean nothing. Nothing runs between fork and exec: that would copy a huge process.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "asyncckpt.worker", "--fd", str(socket_)],
        pass_fds=(socket_,),
        process_group=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
    )


class Waker:
    """Wakes the thread that waits for a link; from any thread, in a finalizer too."""

    def __init__(self) -> None:
        self.descriptor = Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def wake(self) -> None:
        """Have it look."""
        with suppress(ValueError):  # nobody waits any more
            os.eventfd_write(self.descriptor.fileno(), 1)

    def clear(self) -> None:
        """It looks."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor.fileno())
