"""Markdown: the page of a run, or a table, for a terminal, an issue or a wiki."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from asyncckpt.report.document import Block, Code, Note, Section, Table, sections
from asyncckpt.report.gathering import Gathered
from asyncckpt.report.pictures import Picture

_ACTIVE = re.compile(r"([\\`*{}\[\]<>#|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def markdown(run: Gathered, link: Callable[[Picture], str] | None = None) -> str:
    """The page of `run`. `link` takes each picture away and says where it is then; without it they are named only."""
    parts = [f"# {escaped(run.name)}"]
    for section in sections(run):
        parts += _section(section, link)
    return "\n\n".join(parts) + "\n"


def _section(section: Section, link: Callable[[Picture], str] | None) -> list[str]:
    head = [f"## {section.title}"] if section.title else []
    return head + [_block(block, link) for block in section.blocks]


def _block(block: Block, link: Callable[[Picture], str] | None) -> str:
    match block:
        case Table():
            return table(block.headings, block.rows, block.right)
        case Code(text):
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", text))])
            return f"{fence}\n{text}\n{fence}"
        case Note(text, is_bad):
            return f"**{escaped(text)}**" if is_bad else escaped(text)
    if block.reason:
        return escaped(block.reason)
    return f"*{block.text}: in the HTML page.*" if link is None else f"![{block.text}]({link(block)})"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str] = frozenset()) -> str:
    """A table with its columns in line, as they would be typed."""
    cells = [[escaped(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    flush = [heading in right for heading in headings]
    rule = ["-" * (width - 1) + ":" if end else "-" * width for width, end in zip(widths, flush, strict=True)]
    return "\n".join(_row(row, widths, flush) for row in [cells[0], rule, *cells[1:]])


def _row(cells: Sequence[str], widths: Sequence[int], flush: Sequence[bool]) -> str:
    columns = zip(cells, widths, flush, strict=True)
    return f"| {' | '.join(cell.rjust(width) if end else cell.ljust(width) for cell, width, end in columns)} |"


def escaped(text: str) -> str:
    """`text` so that it is shown as it stands, on one line: what is in a run comes from anywhere."""
    return _ACTIVE.sub(r"\\\1", " ".join(text.split()))
