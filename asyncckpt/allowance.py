"""Allowance: how much memory this process may still take, by the narrowest of its limits.

In a container MemTotal is the host's; what ends the process is the limit of its cgroup, or of one above it. Page cache
that a cgroup is charged for and does not use counts as free: the kernel drops it first.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

if sys.platform != "win32":
    import resource

_UNLIMITED = 1 << 62
"""Version 1 writes a number of pages near 2**63 where there is no limit."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Bytes that are `free`, and which limit says so.

    `source` is the same in all processes for which that limit holds. Where `ranks` of a training share it, this is the
    `part` of one of them.
    """

    free: int
    limit: str
    source: str = field(default="", compare=False)
    part: float = 1.0
    ranks: int = 1

    @property
    def left(self) -> str:
        """What is left, for a sentence."""
        whose = f" for this rank, one of {self.ranks} that share it" if self.ranks > 1 else ""
        return f"{self.limit} has {self.free:,} left{whose}"

    def short_of(self, size: int) -> int:
        """By how much the limit would have to be higher for `size` bytes."""
        return -int(-(size - self.free) // self.part)


def memory(root: Path = Path("/")) -> Allowance | None:
    """What may still be taken; None where the system does not say. `root` is where ``proc`` and ``sys`` are."""
    return min(limits(root), key=lambda allowance: allowance.free, default=None)


def limits(root: Path = Path("/")) -> list[Allowance]:
    """The same of every limit that holds for this process."""
    return [*_of_cgroups(root), *_of_machine(root)]


def lockable() -> int | None:
    """Bytes that this process may lock into memory (RLIMIT_MEMLOCK); None where there is no limit."""
    if sys.platform == "win32":
        return None
    else:
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return None if soft == resource.RLIM_INFINITY else soft


def _of_machine(root: Path) -> Iterator[Allowance]:
    with suppress(OSError, ValueError, KeyError):
        fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        yield Allowance(int(fields["MemAvailable"].split()[0]) * 1024, "the machine", _machine(root))


def _machine(root: Path) -> str:
    """The same in all containers of a machine, and in no other machine."""
    with suppress(OSError):
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


def _of_cgroups(root: Path) -> Iterator[Allowance]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
            yield from _limits(mount, path, _machine(root), "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _limits(mount, path, _machine(root), *names)


def _limits(mount: Path, path: str, machine: str, limit: str, usage: str, cache: str) -> Iterator[Allowance]:
    """Of a cgroup and of all above it: each of them may be the one that is full."""
    group = Path(path.lstrip("/"))
    # Inside of a container the mount is the cgroup itself, and its path on the host leads nowhere.
    for folder in [group, *group.parents]:
        with suppress(OSError, ValueError, KeyError):  # "max" is no number
            most = int((mount / folder / limit).read_text())
            used = int((mount / folder / usage).read_text())
            stat = dict(line.split() for line in (mount / folder / "memory.stat").read_text().splitlines())
            if most < _UNLIMITED:
                free, name = max(0, most - used + int(stat[cache])), f"the cgroup /{folder}".replace("/.", "/")
                # By its inode: in a container each of them is called "/".
                yield Allowance(free, name, f"{machine}/{(mount / folder).stat().st_ino}")
