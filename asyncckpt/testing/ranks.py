"""Ranks: a gloo job of a few real processes on loopback, so that tests have ranks that save, resume and die.

Where the platform can, processes are forked from a server that has imported torch: a job then starts in a fraction
of a second, instead of seconds for each rank.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

StoreHost: TypeAlias = Literal["rank 0", "launcher"]
"""Whose process holds the key-value store: rank 0's, as with plain ``init_process_group``, or one that outlives all
ranks, as with ``torchrun``."""

PRELOADED = [
    "torch._dynamo",  # optimizers import it when they are made: that takes a second
    "torch.distributed",
    "asyncckpt.checkpointer",
]
"""What forked processes find imported. There is one server for all of them, whoever needs it first: a module whose
processes need more adds that here when it is imported."""

_LOOPBACK = "127.0.0.1"
_LAST_WORDS = 5.0
_KILLED = -9


class RanksFailed(AssertionError):
    """A rank raised, died or did not end; the message holds what every rank had printed."""


def run_ranks(
    function: Callable[..., Any],
    world: int,
    *args: Any,
    timeout: float = 120.0,
    killed: Collection[int] = (),
    store: StoreHost = "rank 0",
) -> list[Any]:
    """Call ``function(*args)`` on `world` ranks, each a process of its own; returns what each returned, by rank.

    `function` is one that can be imported; arguments and results can be pickled. The default process group is there
    when it is called. Ranks in `killed` must die by SIGKILL; their result is None. Raises `RanksFailed` as soon as
    a rank fails, or `timeout` seconds after all were started. No process is left in any case.
    """
    with tempfile.TemporaryDirectory(prefix="asyncckpt-ranks-") as folder, socket.socket() as held:
        # A free port known by its number alone may be somebody else's by then. One that is bound, and not listened at,
        # is given to nobody but who asks for it by number, and reuses addresses as this does: so does torch's server.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((_LOOPBACK, 0))
        place = _Place(Path(folder), world, held.getsockname()[1], timeout)
        server = _server(place) if store == "launcher" else None
        with _started(function, args, place, hosts=server is None) as processes:
            _wait(processes, place, killed)
        return [None if rank in killed else pickle.loads(place.result(rank).read_bytes()) for rank in range(world)]  # noqa: S301 -- our own


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the ranks of one job meet, and where they leave what they print and return."""

    folder: Path
    world: int
    port: int
    timeout: float

    def output(self, rank: int) -> Path:
        return self.folder / f"output-{rank}"

    def result(self, rank: int) -> Path:
        return self.folder / f"result-{rank}"

    def told(self) -> str:
        """What all ranks have printed."""
        texts = {rank: self.output(rank) for rank in range(self.world) if self.output(rank).exists()}
        return "\n".join(f"--- rank {rank} ---\n{path.read_text('utf-8', 'replace')}" for rank, path in texts.items())


def _server(place: _Place) -> TCPStore:
    return TCPStore(_LOOPBACK, place.port, is_master=True, wait_for_workers=False)


# -- in the launcher ---------------------------------------------------------------------------------------


@contextmanager
def _started(
    function: Callable[..., Any], args: tuple[Any, ...], place: _Place, *, hosts: bool
) -> Iterator[list[BaseProcess]]:
    """The ranks as running processes, of which rank 0 `hosts` the store; ends those that are left."""
    process = process_class()
    processes: list[BaseProcess] = []
    try:
        for rank in range(place.world):
            rank_args = (function, args, place, rank, hosts and rank == 0)
            processes.append(process(target=_rank_main, args=rank_args, daemon=True))
            processes[-1].start()
        yield processes
    finally:
        for process_left in processes:
            process_left.kill()
            process_left.join()


def process_class() -> type[BaseProcess]:
    """Of processes that start in a fraction of a second, where the platform can."""
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        return context.Process
    else:  # a fork of a process that has imported torch may hang
        return multiprocessing.get_context("spawn").Process


def _wait(processes: list[BaseProcess], place: _Place, killed: Collection[int]) -> None:
    """Return once every rank has ended as it should."""
    running, began = dict(enumerate(processes)), time.monotonic()
    while running:
        left = began + place.timeout - time.monotonic()
        ended = connection.wait([process.sentinel for process in running.values()], max(0.0, left))
        if not ended:
            _abort(running.values())
            names = ", ".join(map(str, running))
            raise RanksFailed(f"rank {names} had not ended after {place.timeout:g} s\n{place.told()}")
        for rank in [rank for rank, process in running.items() if process.sentinel in ended]:
            process = running.pop(rank)
            process.join()
            if process.exitcode != (_KILLED if rank in killed else 0):
                raise RanksFailed(f"rank {rank} ended with exit code {process.exitcode}\n{place.told()}")


def _abort(processes: Collection[BaseProcess]) -> None:
    """Let processes that hang say where."""
    for process in processes:
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGABRT)
    connection.wait([process.sentinel for process in processes], _LAST_WORDS)


# -- in a rank ---------------------------------------------------------------------------------------------


def _rank_main(function: Callable[..., Any], args: tuple[Any, ...], place: _Place, rank: int, hosts: bool) -> None:
    _print_into(place.output(rank))
    faulthandler.enable()
    _announce(rank, place)
    torch.set_num_threads(1)
    store = _server(place) if hosts else TCPStore(_LOOPBACK, place.port)
    timeout = timedelta(seconds=place.timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=place.world, timeout=timeout)
    dist.barrier()  # a rank that ends before the others have met it would take them down
    place.result(rank).write_bytes(pickle.dumps(function(*args)))


def _print_into(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _announce(rank: int, place: _Place) -> None:
    """The environment that ``torchrun`` gives."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(place.world),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(place.port),
    }
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"


__all__ = ["PRELOADED", "RanksFailed", "StoreHost", "process_class", "run_ranks"]
