"""Output: the same rows for a terminal, for a pipe and for a program."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click

from asyncckpt.cli.printable import printable
from asyncckpt.inspection.schema import versioned


def print_json(document: dict[str, Any]) -> None:
    """One document with its schema's version."""
    click.echo(json.dumps(versioned(document), indent=2, allow_nan=False))


def json_line(document: dict[str, Any]) -> str:
    """A document with its schema's version on one line, for a stream of them."""
    return json.dumps(versioned(document), allow_nan=False)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> None:
    """A table: drawn where there is a terminal and rich, aligned text elsewhere; columns in `right` end flush."""
    cells = [[printable(cell) for cell in row] for row in rows]
    flush = [heading in right for heading in headings]
    if sys.stdout.isatty() and _draw(headings, cells, flush):
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = []
    for row in [headings, *cells]:
        columns = zip(row, widths, flush, strict=True)
        lines.append("  ".join(c.rjust(width) if end else c.ljust(width) for c, width, end in columns).rstrip())
    click.echo("\n".join(lines))  # at once: of ten thousand, each by itself takes a tenth of a second


def _draw(headings: Sequence[str], rows: Sequence[Sequence[str]], flush: Sequence[bool]) -> bool:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        return False
    table = Table(box=box.SIMPLE_HEAD)
    for heading, end in zip(headings, flush, strict=True):
        # A long key is folded: cut off, it could not be copied.
        table.add_column(heading, justify="right" if end else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
    return True


def print_line(text: str, colour: str) -> None:
    """One line, coloured on a terminal; never wrapped."""
    click.echo(click.style(printable(text), fg=colour), color=False if os.environ.get("NO_COLOR") else None)


def age(created: float) -> str:
    """How long ago, for people."""
    return between(created, time.time())


def between(first: float, last: float) -> str:
    """From `first` to `last`, for people."""
    seconds = max(0.0, last - first)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
