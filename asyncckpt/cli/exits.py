"""Exits: what the status of a command says to a script."""

from __future__ import annotations

from enum import IntEnum

from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError, CheckpointNotFoundError, HeadDamaged, RunRefused

INTERRUPTED = 130
"""Ctrl-C, as shells count it; click's own 1 would read as damage."""

PIPE_CLOSED = 141
"""Whoever reads the output has seen enough, as ``head`` has: as shells count SIGPIPE, and for the same reason."""


class Exit(IntEnum):
    """The statuses of ``ls``, ``show`` and ``verify``, besides click's 2 for a wrong command line."""

    OK = 0
    DAMAGED = 1
    ABSENT = 3
    UNREADABLE = 4
    """The store failed, or a newer version wrote this: whether anything is damaged is not known."""


def exit_for(error: AsyncCkptError) -> Exit:
    """The status of a command that `error` ended."""
    match error:
        case CheckpointNotFoundError():
            return Exit.ABSENT
        case CheckpointCorruptError() | HeadDamaged() | RunRefused():
            return Exit.DAMAGED
        case _:
            return Exit.UNREADABLE


def reason(error: AsyncCkptError) -> str:
    """What `error` says, without the number that an `OSError` puts before it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
