"""``python -m asyncckpt.worker --fd N``: the worker process of one trainer. It imports no torch.

The trainer starts it, and talks to it through the socket that is its descriptor N. Its standard error is its log.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import select
import signal
import socket
import struct
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from asyncckpt import keys
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.wire import Message

if sys.platform == "linux":
    from asyncckpt.storage.stopped import stopped
    from asyncckpt.worker import logs
    from asyncckpt.worker.process import watchdog
    from asyncckpt.worker.process.channel import Channel
    from asyncckpt.worker.process.host import Host
    from asyncckpt.worker.process.priority import give_way

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")

PATIENCE = 60.0
"""Seconds that a trainer has to say what there is to do: it does so right after it has started a worker."""

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGALRM)
"""What ends a training politely, or tells it that it will be ended, reaches its whole group, or all processes of a step
of Slurm, and must not end what is to outlive it."""

LOST = 3
"""The status of a worker that outlived its trainer, and could not commit what that had staged."""


def main() -> int:
    """Serve the trainer at the other end; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m asyncckpt.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the descriptor of the socket to the trainer")
    number = parser.parse_args().fd
    for ignored in IGNORED:
        signal.signal(ignored, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    end = socket.socket(fileno=number)
    trainer = _maker(end)
    channel = Channel(end)
    config = _config(channel, trainer)
    if config is None:
        return 0
    if config["protocol"] != wire.PROTOCOL:
        logger.error("the trainer speaks protocol %s, this worker %s", config["protocol"], wire.PROTOCOL)
        return 1
    give_way(config["nice"], config["cpus"])
    lost = asyncio.run(_serve(channel, config))
    logs.remove_if_silent(Path(config["log"]))
    return _status(lost)


def _status(lost: int) -> int:
    return LOST if lost else 0


def _leave(status: int) -> NoReturn:
    """End this process; no thread that waits for a store that hangs holds it up."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


def _maker(end: socket.socket) -> int:
    """The number of the process that has made the socket, the trainer; 0 where it cannot be seen from here."""
    pid, _, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid)


def _config(channel: Channel, trainer: int) -> Message | None:
    """The first message, or None from a trainer that ended before it sent one, or does not send one.

    Its end of the socket may be held open by a child that it has forked: so its process is watched too.
    """
    deadline = time.monotonic() + PATIENCE
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    with ExitStack() as held:
        is_dead, watched = _watched(trainer, held)
        if watched is not None:
            poll.register(watched, select.POLLIN)
        while not channel.is_ended:
            for message, _ in channel.receive():  # first: a dead trainer's last words are there to be read
                return message
            left = deadline - time.monotonic()
            if is_dead or left <= 0:
                why = "is gone" if is_dead else f"has not said in {PATIENCE:g} s what there is to do"
                logger.error("the trainer (process %s) %s: this worker ends", trainer, why)
                return None
            is_dead = watched in dict(poll.poll(left * 1000))
    return None


def _watched(process: int, held: ExitStack) -> tuple[bool, int | None]:
    """Whether `process` is dead already, and a descriptor, which `held` closes, that can be read once it is."""
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return True, None
    except OSError:  # it cannot be seen from here
        return False, None
    held.callback(os.close, watched)
    return False, watched


async def _serve(channel: Channel, config: Message) -> int:
    watchdog.watch(config["trainer"], config["deadline"])
    for key in config.pop("keys"):
        keys.register(bytes.fromhex(key))
    host = Host(channel, config)
    await host.run()
    if await stopped():  # it would never end in order
        _leave(_status(host.lost))
    return host.lost


if __name__ == "__main__":
    _leave(main())
