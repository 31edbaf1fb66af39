"""Priority: how a worker process gives way to the training that started it. Set by the worker on itself."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from asyncckpt.worker import cores

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

    What cannot be had here is said in the log: the worker runs all the same.
    """
    try:
        if cpus:
            os.sched_setaffinity(0, cpus)
        os.nice(nice)
        if os.getsid(0) == os.getpid():
            # Only then: a session of its own is a scheduler's group of its own, within which nice orders nothing. In
            # the trainer's session this would lower the trainer.
            with suppress(FileNotFoundError):
                Path("/proc/self/autogroup").write_text(str(nice))
        if nice:
            _lower_io()
    except OSError as error:
        logger.warning("the worker's priority could not be lowered: %s", error)


def _lower_io() -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None and ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _BEST_EFFORT | _LEAST):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
