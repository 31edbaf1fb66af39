"""Local: experiments as processes on this machine, so many at once, the others after them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from asyncckpt.launch.execution import Outcome

_GRACE = 10.0
"""Seconds that a process which was told to end may take."""
_PAUSE = 0.02
_TAIL = 65536
"""Bytes of a log in which its last line is looked for."""


@dataclass(frozen=True, slots=True)
class Process:
    """What an experiment is here: a command, where it runs, and the file that gets what it prints."""

    name: str
    command: Sequence[str]
    folder: Path
    log: Path


def run(processes: Sequence[Process], limit: int) -> list[Outcome]:
    """Run all, `limit` at once, and return what has come of each, in their order.

    One that fails stops no other. An interrupt ends those that run and what they have started, begins no other, and is
    raised.
    """
    running = _Running()
    with ThreadPoolExecutor(limit, thread_name_prefix="asyncckpt-experiment") as pool:
        try:
            outcomes = [pool.submit(running.outcome, process) for process in processes]
            return [outcome.result() for outcome in outcomes]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            raise


class _Running:
    """The processes that run now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: set[subprocess.Popen[bytes]] = set()
        self._has_ended = False

    def outcome(self, process: Process) -> Outcome:
        """Run one, to its end."""
        began = time.monotonic()
        try:
            process.log.parent.mkdir(parents=True, exist_ok=True)
            before = process.log.stat().st_size if process.log.exists() else 0
            status = self._status(process)
            reason = None if status == 0 else _reason(status, process.log, before)
        except (OSError, ValueError) as error:  # ValueError: a word that no program can be given
            reason = f"could not be run: {error}"
        seconds = round(time.monotonic() - began, 3)
        return Outcome(process.name, "failed" if reason else "completed", reason=reason, seconds=seconds)

    def _status(self, process: Process) -> int:
        with process.log.open("ab") as log:
            with self._lock:
                if self._has_ended:
                    raise OSError("the search was interrupted")
                started = subprocess.Popen(
                    process.command,
                    cwd=process.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A group of its own: what it starts can be ended with it, and Ctrl-C reaches it once, through us.
                    process_group=0 if _HAS_GROUPS else None,
                )
                self._now.add(started)
            try:
                return started.wait()
            finally:
                with self._lock:
                    self._now.discard(started)

    def end(self) -> None:
        """End those that run, and have no other begin; they are told to, so that a training can still save."""
        with self._lock:
            self._has_ended = True
            now = list(self._now)
        try:
            for process in now:
                _signal(process, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE
            while any(map(_is_there, now)) and time.monotonic() < deadline:
                time.sleep(_PAUSE)
        finally:  # a second Ctrl-C too
            for process in now:
                _kill(process)


if sys.platform == "win32":
    _HAS_GROUPS = False

    def _is_there(process: subprocess.Popen[bytes]) -> bool:
        return process.poll() is None

    def _signal(process: subprocess.Popen[bytes], number: int) -> None:
        process.terminate()

    def _kill(process: subprocess.Popen[bytes]) -> None:
        process.kill()
else:
    _HAS_GROUPS = True

    def _is_there(process: subprocess.Popen[bytes]) -> bool:
        """Whether it, or what it has started, is there still."""
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # somebody else's, which it has started by sudo
        return True

    def _signal(process: subprocess.Popen[bytes], number: int) -> None:
        # Its number is not given to another group while a process is in it; with the last one, it is gone.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)

    def _kill(process: subprocess.Popen[bytes]) -> None:
        _signal(process, signal.SIGKILL)


def _reason(status: int, log: Path, before: int) -> str:
    """Why one failed, with the last line that it has itself written into its log, from `before` on."""
    with log.open("rb") as file:
        file.seek(max(before, log.stat().st_size - _TAIL))
        said = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    last = f": {said[-1][:200]}" if said else ""
    if status > 0:
        return f"exit status {status}{last}"
    names = {each.value: each.name for each in signal.Signals}
    return f"killed by {names.get(-status, -status)}{last}"
