"""Presence: a rank's trainer and worker process, as the workers of other ranks on the same machine can see them.

It serves those who would wait in vain: who is dead, and has left nobody, will never write what others wait for. Safety
needs none of it. Of a rank on another machine nothing is seen; there only deadlines count.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if sys.platform == "linux":
    from asyncckpt.worker import logs


@dataclass(frozen=True, slots=True)
class Presence:
    """The trainer with the number `trainer`, started at `started`, and whatever worker process it has in `root`."""

    machine: str | None
    """None where the kernel does not tell: then it is seen by nobody."""
    root: str
    trainer: int
    started: int | None

    @property
    def is_orphaned(self) -> bool:
        """Whether the trainer is seen to be dead; its worker may go on."""
        if sys.platform == "linux":
            return self._is_here and not logs.is_running(self.trainer, self.started)
        else:
            return False

    @property
    def is_gone(self) -> bool:
        """Whether trainer and worker are seen to be dead: whatever they had to write is written by now."""
        if sys.platform == "linux":
            try:
                # The trainer first: a dead one starts no other worker.
                return self.is_orphaned and not logs.has_worker(self.root, self.trainer, self.started)
            except OSError:
                return False  # what cannot be looked at is not seen to be dead
        else:
            return False

    @property
    def _is_here(self) -> bool:
        return None not in (self.machine, self.started) and self.machine == _machine()

    def said(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def own(root: str) -> Presence | None:
    """That of this process, with a worker process in `root`; None where there can be none."""
    if sys.platform == "linux":
        trainer = os.getpid()
        return Presence(_machine(), root, trainer, logs.started(trainer))
    else:
        return None


def heard(said: dict[str, Any] | None) -> Presence | None:
    """What a rank has said, if it has said that it has a worker process."""
    return Presence(**said) if said else None


def _machine() -> str | None:
    """The same for processes that see each other's numbers and logs, and for no others; None where that is unknown."""
    if sys.platform == "linux":
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            spaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "mnt")]
            return " ".join([boot, *spaces, os.path.abspath(logs.folder())])
    return None
