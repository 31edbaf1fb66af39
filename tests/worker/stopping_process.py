"""A training in a process of its own that stops before its first call about a name, until a line comes in.

Writes that call in a line, and at its end a line for each record that was reported durable.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from asyncckpt.testing.files import Call, WatchedFiles
from tests.worker.drive import Session, drive
from tests.worker.racing import train


class StoppingFiles(WatchedFiles):
    """Stops before the first call that `about` is in a path of."""

    def __init__(self, about: str) -> None:
        super().__init__()
        self._about: str | None = about

    def around(self, call: Call) -> Any:
        if self._about is not None and any(self._about in path for path in call.paths):
            self._about = None
            print(call.name, *call.paths, flush=True)
            sys.stdin.readline()
        return call.make()


def main() -> None:
    root, about, *steps = sys.argv[1:]
    sessions: list[Session] = []
    drive(train(Path(root), StoppingFiles(about), [int(step) for step in steps], sessions))
    for record in sessions[0].records:
        print(record.encode().decode())


if __name__ == "__main__":
    main()
