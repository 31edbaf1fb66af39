"""Settings: what a user may say about the worker process."""

from __future__ import annotations

from dataclasses import dataclass

_LONGEST = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessConfig:
    """How the worker process runs. Raises `ValueError` for what means nothing.

    `nice` is added to its priority, and lowers that of its reads and writes where it is above 0: at 19 on cores that
    training keeps busy, saves take twice as long and disturb no less. `deadline` are the seconds that a worker whose
    trainer died has to commit what is complete, a week at most: it never stays for ever. `adopt_timeout` are those
    that a start waits for such a worker of an earlier training in the same root, on the same machine. `answer_timeout`
    are those that `resume()`, `prune()` and late metrics wait for a worker that lives and does not answer, as one does
    whose disk hangs. It is long, since slow work shows no other sign: a checkpoint that is brought home from a mirror.
    """

    nice: int = 10
    deadline: float = 600.0
    adopt_timeout: float = 30.0
    answer_timeout: float = 6 * 3600.0

    def __post_init__(self) -> None:
        if not 0 <= self.nice <= 19:
            raise ValueError(f"ProcessConfig(nice={self.nice}): use 0 to 19")
        for name in ("deadline", "adopt_timeout", "answer_timeout"):
            if not 0 <= getattr(self, name) <= _LONGEST:
                raise ValueError(f"ProcessConfig({name}={getattr(self, name)}): use seconds from 0 to a week's")
