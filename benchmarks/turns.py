"""Turns: systems measured one after the other in processes of their own, round after round.

A benchmark's ``measure(turn)`` runs in such a process and returns samples. The limits of the machine take their
turn as a system does, so that what they are compared with ran within the same minutes.
"""

from __future__ import annotations

import importlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from asyncckpt.testing.s3server import S3Server
from benchmarks.installed import is_installed
from benchmarks.machine import Foreign, wait_until_quiet
from benchmarks.options import Options
from benchmarks.systems import is_own

Sample: TypeAlias = dict[str, float]

LIMIT = "limit"
"""In place of a system: the limits of the machine."""

_LONGEST = 1800
"""Seconds of one turn: 300 GB are written in the longest, `memory`."""

_DISTURBING = 0.3
"""Cores used by others, from which on a turn's numbers say more of them."""

_PATIENCE = 60
"""Seconds that a turn waits at most for other work on the machine to end."""


@dataclass(frozen=True)
class Turn:
    """One system's turn in one process."""

    system: str
    folder: Path
    quick: bool
    endpoint: str = ""
    """Of the run's object store, where it has one."""


@dataclass
class Turns:
    """All that was sampled, by system and round."""

    rounds: dict[str, list[list[Sample]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    disturbed: bool = False
    """Others used the machine while this project or a limit had its turn."""

    @property
    def systems(self) -> list[str]:
        """The systems that were measured, without the limits."""
        return [name for name, rounds in self.rounds.items() if rounds and name != LIMIT]

    def of(self, system: str) -> list[Sample]:
        """Every sample of `system`."""
        return [sample for samples in self.rounds.get(system, []) for sample in samples]

    def over(self, system: str, other: str, key: str) -> list[float]:
        """`key` of each sample of `system` over its median in `other`'s turn of the same round."""
        return [
            sample[key] / statistics.median(one[key] for one in others)
            for samples, others in zip(self.rounds[system], self.rounds[other], strict=False)
            for sample in samples
        ]

    def against(self, system: str, key: str, limit: str, where: Callable[[Sample], bool]) -> list[float]:
        """`key` of each sample of `system` over the median `limit` of its round's limits."""
        return [
            sample[key] / statistics.median(one[limit] for one in limits)
            for samples, limits in zip(self.rounds[system], self.rounds[LIMIT], strict=False)
            for sample in samples
            if where(sample)
        ]


def take(bench: str, systems: Iterable[str], rounds: int, options: Options, server: S3Server | None = None) -> Turns:
    """`rounds` rounds of every one of `systems`. A peer that fails is noted and left out; this project must not.

    What `server` computes for them counts as theirs.
    """
    turns, foreign = Turns(), list[float]()
    for name in systems:
        if name == LIMIT or is_installed(name):
            turns.rounds[name] = []
        else:
            turns.notes.append(f"{name}: not installed")
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="bench-", ignore_cleanup_errors=True) as folder:

        def turn_of(name: str) -> Turn:
            return Turn(name, Path(folder), options.quick, server.endpoint if server else "")

        for number in range(rounds):
            for name in list(turns.rounds):
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                if not options.quick:
                    wait_until_quiet(_PATIENCE)
                with Foreign(server.process if server else None) as others:
                    problem = _take_one(turns, bench, turn_of(name))
                foreign.append(others.cores)
                turns.disturbed |= (name == LIMIT or is_own(name)) and others.cores > _DISTURBING
                if problem:
                    turns.notes.append(f"{name}: failed: {problem}")
                    del turns.rounds[name]
    if foreign:
        turns.notes.append(f"cores used by others: {statistics.median(foreign):.2f} (at most {max(foreign):.2f})")
    return turns


def _take_one(turns: Turns, bench: str, turn: Turn) -> str | None:
    """One turn; returns why a peer failed."""
    found = turn.folder / "samples.json"
    arguments = [bench, turn.system, str(turn.folder), str(int(turn.quick)), turn.endpoint]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.turns", *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_LONGEST)
        if done.returncode == 0:
            turns.rounds[turn.system].append(json.loads(found.read_text()))
            return None
        problem = _last_line(done.stderr) or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"no end after {_LONGEST} s"
    finally:
        for left in turn.folder.iterdir():
            # The worker process of one that was killed may still write there: that must not hide why it was.
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    if turn.system == LIMIT or is_own(turn.system):
        raise RuntimeError(f"{bench} of {turn.system}: {problem}")
    return problem


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "Error" in line] or text.split("\n")
    return lines[-1][:200]


def main(bench: str, system: str, folder: str, quick: str, endpoint: str) -> None:
    """The process of one turn."""
    turn = Turn(system, Path(folder), bool(int(quick)), endpoint)
    samples: Sequence[Sample] = importlib.import_module(f"benchmarks.{bench}").measure(turn)
    (turn.folder / "samples.json").write_text(json.dumps(samples))


if __name__ == "__main__":
    main(*sys.argv[1:])
