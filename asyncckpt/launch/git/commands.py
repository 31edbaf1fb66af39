"""Commands: git of the system, called so that nothing which it is given is taken for an option or a shell's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from asyncckpt.errors import GitOperationError

PATIENCE = 120.0
"""Seconds that one command may take; a hook that waits for somebody has nobody here."""

_GRACE = 10.0
"""Seconds that git may take to end when it is told to."""

_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
"""What git sets for its hooks, and what would send our commands to another repository than ours."""


def git(folder: Path, *arguments: str, given: str | None = None) -> str:
    """What git prints, without the last line's end. Raises `GitOperationError` with what it said."""
    found = tried(folder, *arguments, given=given)
    if found.returncode:
        said = found.stderr.strip() or found.stdout.strip() or f"exit status {found.returncode}"
        raise GitOperationError(f"git {' '.join(arguments[:2])} in {folder} failed: {said}")
    return found.stdout.rstrip("\n")


def asked(folder: Path, *arguments: str) -> bool:
    """Whether git says yes."""
    return tried(folder, *arguments).returncode == 0


def names(folder: Path, *arguments: str) -> list[str]:
    """The paths that git prints with ``-z``, which has no way to quote one."""
    return [name for name in git(folder, *arguments).split("\0") if name]


def tried(folder: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run git, whatever comes of it. Raises `GitOperationError` where there is none, or it does not end."""
    command = ["git", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        with subprocess.Popen(
            command,
            env={**environment, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        ) as process:
            try:
                said, complaints = process.communicate(given or "", PATIENCE)
            except BaseException:
                _end(process)
                raise
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise GitOperationError(f"git {' '.join(arguments[:2])} in {folder} could not be run: {error}") from error
    return subprocess.CompletedProcess(command, process.returncode, said, complaints)


def _end(process: subprocess.Popen[str]) -> None:
    """Have git end itself: killed, it would leave its locks behind, and every later command would trip over them."""
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
