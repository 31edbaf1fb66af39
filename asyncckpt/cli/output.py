"""Output: the same rows for a terminal, for a pipe and for a program."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click

from asyncckpt.cli.printable import printable
from asyncckpt.inspection.schema import versioned

_FOLDED = 200
"""Rows that rich is asked to fold, at most."""


def print_json(document: dict[str, Any]) -> None:
    """One document with its schema's version."""
    click.echo(json.dumps(versioned(document), indent=2, allow_nan=False))


def json_line(document: dict[str, Any]) -> str:
    """A document with its schema's version on one line, for a stream of them."""
    return json.dumps(versioned(document), allow_nan=False)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> None:
    """A table, aligned; drawn on a terminal, and there folded by rich where it is too wide; `right` ends flush."""
    cells = [[printable(cell) for cell in row] for row in rows]
    flush = [heading in right for heading in headings]
    if not sys.stdout.isatty():
        click.echo("\n".join(_aligned(headings, cells, flush, "  ")))
        return
    lines = _aligned(headings, cells, flush, "   ")
    # Rich takes 0.4 to 0.8 ms for a row: of ten thousand that is many seconds, and a terminal folds lines too.
    if len(cells) > _FOLDED or _fits(lines) or not _fold(headings, cells, flush):
        rule = "\u2500" if sys.stdout.encoding.lower().startswith("utf") else "-"
        first, *others = (f"  {line}" for line in lines)
        drawn = ["", click.style(first, bold=True), f" {rule * (max(map(len, lines)) + 2)}", *others, ""]
        click.echo("\n".join(drawn), color=_colour())


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], flush: Sequence[bool], gap: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    form = gap.join(f"%{width}s" if end else f"%-{width}s" for width, end in zip(widths, flush, strict=True))
    return [(form % tuple(row)).rstrip() for row in (headings, *rows)]


def _fits(lines: Sequence[str]) -> bool:
    """Whether every line has room on the terminal, as far as that is known: elsewhere letters are of other widths."""
    room = shutil.get_terminal_size().columns - 4
    return all(line.isascii() and len(line) <= room for line in lines)


def _fold(headings: Sequence[str], rows: Sequence[Sequence[str]], flush: Sequence[bool]) -> bool:
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
    click.echo(click.style(printable(text), fg=colour), color=_colour())


def _colour() -> bool | None:
    """What click is told of styles: none where a person or a terminal wants none, else as it finds."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


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
