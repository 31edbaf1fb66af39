"""Commands: Slurm's own programs, called with lists of arguments and never through a shell."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from asyncckpt.errors import SLURMError

PATIENCE = 60.0
"""Seconds that one may take: they wait long for a controller that is down."""


class Unanswered(SLURMError):
    """It was asked, and whether it has done it is not known."""


def called(program: str, *arguments: str) -> str:
    """What it prints. Raises `SLURMError` with what it said, where it is not here or fails; `Unanswered`."""
    command: Sequence[str] = [program, *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise SLURMError(f"{program} is not here: on which machine can jobs be submitted?") from error
    except subprocess.TimeoutExpired as error:
        raise Unanswered(f"{program} has not answered for {PATIENCE:g} s; what it was asked for may be done") from error
    except (OSError, ValueError) as error:
        raise SLURMError(f"{program} could not be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or "it said nothing"
        raise SLURMError(f"{program} failed ({done.returncode}): {said}")
    return done.stdout
