"""Held: the memory of this process and its descendants, and the most of it while something is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

_EVERY = 0.01


class Sampled:
    """A thread that looks at what is `held`, and keeps the most since it was last asked."""

    def __init__(self, held: Callable[[], float]) -> None:
        self._held = held
        self._most = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Sampled:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def take(self) -> float:
        """The most bytes that were held since the last call."""
        most, self._most = max(self._most, self._held()), 0.0
        return most

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            self._most = max(self._most, self._held())


def proportional() -> float:
    """Bytes that this process and its descendants hold, shared ones in proportion.

    Without what is mapped of files: libraries are no part of what a save holds, and their proportion changes with every
    other process that begins or ends.
    """
    return sum(_bytes(process, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) for process in _tree(os.getpid()))


def unshared() -> float:
    """Bytes that they hold without memory that is made to be shared, which is where staging memory is; soon told."""
    return sum(_bytes(process, "status", ("RssAnon:", "RssFile:")) for process in _tree(os.getpid()))


def here() -> dict[str, float]:
    """What this process holds that must not grow, see `of`."""
    return of(os.getpid())


def beside() -> dict[str, float]:
    """The same of its descendants together: of worker processes."""
    found = [of(process) for process in _tree(os.getpid())[1:]]
    return {name: sum(one[name] for one in found) for name in of(os.getpid())}


def of(process: int) -> dict[str, float]:
    """What a process holds: bytes of its own, and how many threads, descriptors and mappings."""
    there = Path(f"/proc/{process}")
    return {
        "private": _bytes(process, "status", ("RssAnon:",)),
        "threads": len(_names(there / "task")),
        "descriptors": len(_names(there / "fd")),
        "mappings": len(_text(process, "maps").splitlines()),
    }


def cpu_seconds() -> float:
    """What they have computed."""
    return sum(map(cpu_seconds_of, _tree(os.getpid())))


def cpu_seconds_of(process: int) -> float:
    """What one process has computed, and those of its children that have ended."""
    fields = _text(process, "stat").rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _tree(process: int) -> list[int]:
    children = [child for task in Path(f"/proc/{process}/task").glob("*") for child in _children(task)]
    return [process, *(one for child in children for one in _tree(child))]


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text().split()]
    except OSError:  # the thread has just ended
        return []


def _bytes(process: int, name: str, keys: tuple[str, ...]) -> float:
    return sum(1024.0 * int(line.split()[1]) for line in _text(process, name).splitlines() if line.startswith(keys))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # it has just ended
        return []


def _text(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except OSError:  # it has just ended
        return ""
