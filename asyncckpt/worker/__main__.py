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
import sys
from pathlib import Path

from asyncckpt.worker import wire
from asyncckpt.worker.wire import Message

if sys.platform == "linux":
    from asyncckpt.worker import logs
    from asyncckpt.worker.channel import Channel
    from asyncckpt.worker.host import Host
    from asyncckpt.worker.priority import give_way

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")

LOST = 3
"""The status of a worker that outlived its trainer, and could not commit what that had staged."""


def main() -> int:
    """Serve the trainer at the other end; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m asyncckpt.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the descriptor of the socket to the trainer")
    number = parser.parse_args().fd
    # What ends a training politely reaches its whole group, and must not end what is to outlive it.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    channel = Channel(socket.socket(fileno=number))
    config = _config(channel)
    if config is None:
        return 0
    if config["protocol"] != wire.PROTOCOL:
        logger.error("the trainer speaks protocol %s, this worker %s", config["protocol"], wire.PROTOCOL)
        return 1
    give_way(config["nice"], config["cpus"])
    lost = asyncio.run(_serve(channel, config))
    logs.remove_if_silent(Path(config["log"]))
    return LOST if lost else 0


def _config(channel: Channel) -> Message | None:
    """The first message, or None from a trainer that ended before it sent one."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    while not channel.is_ended:
        poll.poll()
        for message, _ in channel.receive():
            return message
    return None


async def _serve(channel: Channel, config: Message) -> int:
    host = Host(channel, config)
    await host.run()
    return host.lost


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)  # no thread that waits for a store that hangs holds it up
