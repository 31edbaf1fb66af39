"""Settings: what a user may say about the worker process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessConfig:
    """How the worker process runs. Raises `ValueError` for what means nothing.

    `nice` is added to its priority, and lowers that of its reads and writes where it is above 0: at 19 on cores that
    training keeps busy, saves take twice as long and disturb no less. `deadline` are the seconds that a worker whose
    trainer died has to commit what is complete. `adopt_timeout` are those that a start waits for such a worker of an
    earlier training in the same root, on the same machine.
    """

    nice: int = 10
    deadline: float = 600.0
    adopt_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.nice <= 19:
            raise ValueError(f"ProcessConfig(nice={self.nice}): use 0 to 19")
        for name in ("deadline", "adopt_timeout"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"ProcessConfig({name}={getattr(self, name)}): use seconds from 0 on")
