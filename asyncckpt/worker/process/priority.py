"""Priority: how a worker process gives way to the training that started it. Set by the worker on itself."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from asyncckpt.worker.process import cores

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "ppc64le": 273, "riscv64": 30, "s390x": 282}
_BEST_EFFORT = 2 << 13
_LEAST = 7


_TOPOLOGY = Path("/sys/devices/system/cpu")


def cores_of_trainer() -> frozenset[int]:
    """The cores that any thread of this process may use.

    Under OMP_PROC_BIND each thread is bound to a core, and whoever starts a process hands its own on: a worker on the
    core that trains.
    """
    every: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended since
            every |= os.sched_getaffinity(int(task))
    return frozenset(every)


def cores_for_worker(computing: int) -> frozenset[int]:
    """Those that a worker process of it keeps to, where training computes in so many threads: see `kept_to`."""
    every = cores_of_trainer()
    return cores.kept_to(every, os.sched_getaffinity(os.getpid()), computing, cores.siblings_in(_TOPOLOGY, every))


def give_way(nice: int, cpus: Collection[int]) -> None:
    """Lower this process's priority by `nice`, that of its reads and writes too, and keep to `cpus`.

    What cannot be had here is said in the log, and the others are had all the same.
    """
    # Its nice means something: it is in its trainer's session. In one of its own it would order nothing but what is
    # within that, since the scheduler weighs sessions against each other.
    if cpus:
        _try("keep to its cores", lambda: os.sched_setaffinity(0, cpus))
    if nice:
        _try("lower its priority", lambda: os.nice(nice))
        _try("lower the priority of its reads and writes", _lower_io)


def _try(what: str, act: Callable[[], object]) -> None:
    try:
        act()
    except OSError as error:
        logger.warning("the worker could not %s: %s", what, error)


def _lower_io() -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None and ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _BEST_EFFORT | _LEAST):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
