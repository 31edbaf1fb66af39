"""Status line: what a command is busy with, on stderr, and only where that is a terminal."""

from __future__ import annotations

import shutil
import sys

import click

_CLEAR = "\r\x1b[2K"


class StatusLine:
    """One line that is written over; clear it before anything else is printed."""

    # Not rich's: that takes stdout over while it is live, and sends it to stderr where stdout is a pipe.

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Replace the line, cut to the terminal's width."""
        if self._on:
            width = shutil.get_terminal_size().columns - 1
            click.echo(_CLEAR + text[:width], err=True, nl=False)

    def clear(self) -> None:
        """Leave nothing of it."""
        if self._on:
            click.echo(_CLEAR, err=True, nl=False)

    def close(self) -> None:
        """Leave the terminal clean, for whoever has this in a ``with``."""
        self.clear()
