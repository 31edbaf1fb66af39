"""The demo's training processes: started, followed through the JSON lines they print, and killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

Line = dict[str, Any]


class TrainerProcess:
    """One process of ``asyncckpt.cli.demo_trainer``; its stdout goes to `log` as JSON lines.

    It works in `folder`, with what `environment` adds to this process's, and is to end with `status`. Leaving the
    ``with`` block kills what still runs.
    """

    def __init__(
        self,
        log: Path,
        arguments: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        status: int = 0,
    ) -> None:
        self.log = log
        self.folder = folder or Path.cwd()
        self._status = status
        self.lines: list[Line] = []
        self._errors = log.with_suffix(".stderr")
        self._read = 0
        with log.open("wb") as out, self._errors.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "asyncckpt.cli.demo_trainer", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                cwd=self.folder,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.wait()

    @property
    def step(self) -> int:
        """The last step it has completed."""
        return max((line["step"] for line in self.of("step")), default=0)

    def of(self, event: str) -> list[Line]:
        """The lines of one kind of event that have been read so far."""
        return [line for line in self.lines if line["event"] == event]

    def running(self) -> bool:
        """Read what it printed since the last call; False once it has ended as it is to.

        Raises `click.ClickException` with the end of its stderr if it failed.
        """
        status = self._process.poll()
        self._follow()
        if status not in (None, self._status):
            error = self._errors.read_text(errors="replace")[-2000:]
            raise click.ClickException(f"a training process ended with status {status}:\n{error}")
        return status is None

    def kill(self) -> None:
        """Send SIGKILL (on Windows, terminate it) and return at once."""
        self._process.kill()

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait for its end and read its last lines."""
        self._process.wait()
        self._follow()

    def _follow(self) -> None:
        # Only whole lines: a killed process may leave half of its last one.
        with self.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self.lines += [json.loads(line) for line in whole.splitlines()]
