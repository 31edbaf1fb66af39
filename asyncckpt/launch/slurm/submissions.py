"""Submissions: what was submitted from the folder of one experiment, so that nothing is submitted twice unawares."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from asyncckpt.errors import JobSubmissionError
from asyncckpt.launch.config import files

logger = logging.getLogger("asyncckpt")


class Submissions:
    """The notes in `folder`: ``submissions.jsonl``, and ``submitting.json`` while sbatch is at it.

    The latter stays where it is not known whether there is a job now: who was at it died, or sbatch did not answer.
    """

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "submissions.jsonl"
        self._begun = folder / "submitting.json"

    def last(self) -> str | None:
        """The job that was submitted last. Raises `OSError`."""
        lines = self._notes.read_bytes().splitlines() if self._notes.exists() else []
        for line in reversed(lines):
            with suppress(ValueError, KeyError, TypeError):
                return str(json.loads(line)["job_id"])
        return None

    def begin(self, name: str, *, resubmit: bool) -> None:
        """Note that it is submitted now. Raises `JobSubmissionError` where it may have been already, and `OSError`."""
        said = json.dumps({"since": _now(), "host": socket.gethostname(), "pid": os.getpid()}) + "\n"
        if resubmit:
            files.write_text(self._begun, said)
            return
        try:
            with self._begun.open("x", encoding="utf-8") as file:
                file.write(said)
        except FileExistsError as error:
            raise JobSubmissionError(
                f"{self._begun} is there: another process submits {name} now, or one did not come to know whether it "
                f"had. Look for the job with squeue --name; with resubmit=True it is submitted all the same"
            ) from error

    def gave_up(self) -> None:
        """Sbatch has submitted nothing."""
        self._begun.unlink(missing_ok=True)

    def end(self, job: str, more: Mapping[str, object]) -> None:
        """It is `job`. Raises nothing: there is a job, and who has submitted it has to hear of it."""
        said = json.dumps({"job_id": job, "submitted": _now(), **more})
        try:
            with self._notes.open("a", encoding="utf-8") as file:
                file.write(said + "\n")
            self._begun.unlink(missing_ok=True)
        except OSError as error:
            logger.error("job %s is submitted, and cannot be noted in %s: %s", job, self._notes, error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
