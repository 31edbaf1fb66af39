"""Settings: what a user asks for, checked at once."""

from __future__ import annotations

import math
import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from asyncckpt.preemption.requeue import REQUEUES, Requeue
from asyncckpt.preemption.sources import WORDS, Source

Exit: TypeAlias = Literal["raise", "flag"]

DEFAULT_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")
"""Those that exist here: what Kubernetes and Slurm send, Slurm's usual early warning, and submitit's."""

_NEVER = ("SIGKILL", "SIGSTOP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """What gives notice that the process will be killed, and what is done then. Raises `ValueError` for what cannot be.

    `signals`: by number or name; they are handled from the construction of the checkpointer, in the main thread, until
    it is closed, and handlers that were there before are called too. `watch`: what else gives notice: ``"aws"``,
    ``"gcp"``, ``"azure"`` (the metadata of a spot machine), ``"slurm"`` (the job's time limit), a `Path` that somebody
    touches, or a `Source`. `deadline`: seconds from the notice to the kill, where nobody else says when that is:
    Kubernetes' ``terminationGracePeriodSeconds``, Slurm's ``--signal=USR1@seconds`` or ``GraceTime``.

    `exit`: the next ``step()`` waits for what there is time for and raises `Preempted` (``"raise"``), or returns the
    handle and sets ``should_stop`` (``"flag"``). `exit_code`: instead of 128 plus the number of the signal (SIGTERM's
    where it was none). `requeue`: whether the job is put back: by ``"scontrol"``, by ``"submitit"`` (its own handler,
    once the save is durable), by whichever is there (``"auto"``), or not by this process (``"none"``).
    `max_preemptions`: after so many of one run the job is not put back any more, and leaves with status 1.
    """

    signals: Collection[int | str] | None = None
    deadline: float = 30.0
    exit: Exit = "raise"
    watch: Collection[str | Path | Source] = ()
    requeue: Requeue = "none"
    max_preemptions: int | None = None
    exit_code: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.deadline) and self.deadline > 0):
            raise ValueError(f"Preemption(deadline={self.deadline}): give the seconds from a notice to the kill")
        if self.exit not in ("raise", "flag"):
            raise ValueError(f"Preemption(exit={self.exit!r}): use raise or flag")
        if self.requeue not in REQUEUES:
            raise ValueError(f"Preemption(requeue={self.requeue!r}): use one of {', '.join(REQUEUES)}")
        if self.max_preemptions is not None and self.max_preemptions < 0:
            raise ValueError(f"Preemption(max_preemptions={self.max_preemptions}): use 0 or more, or None for no limit")
        if self.exit_code is not None and not 0 <= self.exit_code <= 255:
            raise ValueError(f"Preemption(exit_code={self.exit_code}): an exit status is from 0 to 255")
        for word in self.watch:
            if isinstance(word, str) and word not in WORDS:
                raise ValueError(
                    f"Preemption(watch={word!r}): use {', '.join(WORDS)}, or pathlib.Path({word!r}) for a file"
                )
        self.numbers()

    def numbers(self) -> tuple[int, ...]:
        """The signals by number."""
        if self.signals is None:
            return tuple(number for name in DEFAULT_SIGNALS if (number := getattr(signal, name, None)) is not None)
        return tuple(dict.fromkeys(map(_number, self.signals)))


def _number(given: int | str) -> int:
    try:
        found = signal.Signals[given] if isinstance(given, str) else signal.Signals(given)
    except (KeyError, ValueError):
        raise ValueError(f"Preemption(signals={given!r}): there is no such signal here") from None
    if found.name in _NEVER:
        raise ValueError(f"Preemption(signals={found.name}): no process can handle that")
    return int(found)
