"""Logs: where the log records of a program go, set up by the program and never by this library."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from asyncckpt.errors import ConfigurationError

_FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Console(logging.StreamHandler[Any]):
    """The console, as we set it up."""


class _File(logging.FileHandler):
    """A file, as we set it up."""


def setup_logging(level: str | int = "INFO", log_file: str | os.PathLike[str] | None = None) -> None:
    """Have records from `level` on shown on the console, and added to `log_file`, whose folders are made.

    Called again, it changes what it set up before; handlers of others stay. Raises `ConfigurationError` for a level
    that is none, and `OSError` for a file that cannot be written, before anything is changed.
    """
    number = _number(level)
    ours: list[logging.Handler] = [_Console()]
    if log_file is not None:
        path = Path(log_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        ours.append(_File(path, encoding="utf-8"))
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Console | _File)]:
        root.removeHandler(old)
        old.close()
    for handler in ours:
        handler.setFormatter(logging.Formatter(_FORM))
        root.addHandler(handler)
    root.setLevel(number)


def get_logger(name: str) -> logging.Logger:
    """The logger of that name, of the standard library."""
    return logging.getLogger(name)


def _number(level: str | int) -> int:
    names = logging.getLevelNamesMapping()
    if isinstance(level, str) and level.upper() in names:
        return names[level.upper()]
    if isinstance(level, int) and not isinstance(level, bool) and level >= 0:
        return level
    raise ConfigurationError(f"level={level!r}: use one of {', '.join(names)}, or a number")
