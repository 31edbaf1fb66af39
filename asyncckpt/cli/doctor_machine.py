"""The doctor's look at the machine, and at this process as trainings that it starts would inherit it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from asyncckpt import allowance
from asyncckpt.cli.checks import Check
from asyncckpt.holding import held
from asyncckpt.metrics.config import OTEL, PORT, configured
from asyncckpt.metrics.exporter import Exporter
from asyncckpt.preemption.settings import DEFAULT_SIGNALS
from asyncckpt.sizes import size
from asyncckpt.worker.memory import mapped

_SHM = Path("/dev/shm")  # noqa: S108 -- looked at, and nothing is put there
_SMALL_SHM = 1 << 30
_HUGE = 8 << 20

_NOTICES = (*DEFAULT_SIGNALS, "SIGINT", "SIGHUP", "SIGXCPU")
"""By which trainings are told that they will end."""


def machine() -> Iterator[Check]:
    """Every check that needs no root."""
    yield _memory()
    yield _memlock()
    yield _shared_memory()
    yield _huge_pages()
    yield _shm()
    yield _signals()
    yield _metrics()
    yield _extras()


def _memory() -> Check:
    found = allowance.memory()
    if found is None:
        return Check("memory", "note", "this system does not say how much a process may take: give Budget(memory=...)")
    return Check("memory", "ok", f"{found.limit} has {size(found.free)} left, most of which snapshots may take")


def _memlock() -> Check:
    limit = allowance.lockable()
    if limit is None:
        return Check("memlock", "ok", "as much memory as is wanted may be page-locked for copies from devices")
    return Check(
        "memlock",
        "note",
        f"RLIMIT_MEMLOCK is {size(limit)}: some drivers page-lock no more, and copies from a device then hold training "
        "up; ulimit -l unlimited (docker run --ulimit memlock=-1) lifts it",
    )


def _shared_memory() -> Check:
    name = "shared memory"
    try:
        descriptor, _ = mapped(1 << 20)
    except OSError as error:
        return Check(name, "problem", f"no memory can be had that a worker process shares ({error}): saves would fail")
    if descriptor is None:
        return Check(name, "note", "there is no memfd here: saves run in a thread, and end with their process")
    descriptor.close()
    return Check(name, "ok", "snapshots lie in a memfd, which a worker process shares and no limit of shm bounds")


def _huge_pages() -> Check:
    name, slower = "huge pages", "copies, digests and writes of snapshots cost up to twice the processor time"
    try:
        descriptor, memory = mapped(_HUGE)
        if descriptor is None or not memory.huge_page:
            return Check(name, "note", f"there are none for shared memory here: {slower}")
        memory.collapse(0, _HUGE)
    except OSError as error:
        return Check(name, "note", f"the kernel gives shared memory none ({error}; Linux 6.1 and later do): {slower}")
    return Check(name, "ok", "snapshots lie in huge pages where memory is not in too small pieces")


def _shm() -> Check:
    try:
        found = shutil.disk_usage(_SHM)
    except OSError as error:
        return Check("shm", "note", f"{_SHM} cannot be used ({error}): data loaders with workers need it; saves do not")
    if found.total < _SMALL_SHM:
        return Check(
            "shm",
            "note",
            f"{_SHM} has {size(found.total)}, and data loaders pass batches through it (saves do not): "
            "docker run --shm-size=8g, or an emptyDir of medium Memory there, makes it larger",
        )
    return Check("shm", "ok", f"{_SHM} has {size(found.free)} free, for data loaders; saves need none of it")


def _signals() -> Check:
    wanted = [signal.Signals[name] for name in _NOTICES if name in signal.Signals.__members__]
    held_back = _held_back()
    blocked = [number for number in wanted if number in held_back]
    if blocked:
        return Check(
            "signals",
            "problem",
            f"{_named(blocked)} blocked here, and in what is started from here: a training would never hear of it; "
            "start it from a process that does not block them",
        )
    ignored = [number for number in wanted if signal.getsignal(number) == signal.SIG_IGN]
    if ignored:
        return Check(
            "signals",
            "note",
            f"{_named(ignored)} ignored here (by nohup, trap '' or a shell's &), and in what is started from here: "
            "Preemption(signals=...) handles those that it names all the same; without it they do nothing",
        )
    return Check("signals", "ok", f"none of {', '.join(_NOTICES)} is ignored or blocked")


def _held_back() -> Collection[int]:
    """The signals that wait until somebody lets them in."""
    held_back: Collection[int] = ()
    if sys.platform != "win32":
        held_back = {*signal.pthread_sigmask(signal.SIG_BLOCK, ())} - {*held()}  # which a Preemption lets in
    return held_back


def _named(numbers: list[signal.Signals]) -> str:
    return f"{', '.join(number.name for number in numbers)} {'is' if len(numbers) == 1 else 'are'}"


def _metrics() -> Check:
    with _said() as said:
        config = configured(None)
        if config is None:
            return Check("metrics", "ok", f"{PORT} is not set, so that only metrics= opens a port")
        # The port alone is tried: what is reported stays where it was put.
        exporter = Exporter(replace(config, textfile=None, pushgateway=None, otel=False))
        try:
            exporter.serve()
            port = exporter.port
        finally:
            exporter.close(0.0)
    if said:
        return Check("metrics", "note", f"{said[0]}; unless a training of yours has it, take another one")
    if config.textfile is not None and not os.access(config.textfile, os.W_OK):
        return Check("metrics", "note", f"{config.textfile} is no folder to write to: metrics would not be there")
    if config.otel and not _is_installed("opentelemetry-api"):
        return Check("metrics", "note", f"{OTEL} is set, and that needs pip install 'asyncckpt[otel]'")
    free = [] if port is None else [f"{config.addr}:{port} is free"]
    taken = [place for place in (config.textfile, config.pushgateway, config.otel and "OpenTelemetry") if place]
    return Check("metrics", "ok", "; ".join([*free, *(f"they go to {place}" for place in taken)]))


@contextmanager
def _said() -> Iterator[list[str]]:
    """What is logged meanwhile, which then goes nowhere else."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, keep = logging.getLogger("asyncckpt"), Keep()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(keep)
    try:
        yield said
    finally:
        logger.removeHandler(keep)
        logger.propagate = propagated


_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?![\w.-]*\[).*;.*\bextra\s*==\s*[\"']([\w-]+)[\"']")


def _extras() -> Check:
    try:
        wanted = metadata.requires("asyncckpt") or []
    except metadata.PackageNotFoundError:
        return Check("extras", "note", "asyncckpt itself is not installed here, so nobody knows what belongs to it")
    missing: dict[str, list[str]] = {}
    for requirement in wanted:
        match = _REQUIREMENT.match(requirement)
        if match is not None and match[2] != "all" and not _is_installed(match[1]):
            missing.setdefault(match[2], []).append(match[1])
    if not missing:
        return Check("extras", "ok", "every optional library is installed")
    lacks = ", ".join(f"{extra} ({', '.join(names)})" for extra, names in missing.items())
    return Check("extras", "note", f"not installed: {lacks}; pip install 'asyncckpt[EXTRA]' where you need one")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
