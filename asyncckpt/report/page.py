"""Page: the page of a run as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from asyncckpt.plots.theme import BAD, COLORS, FAINT, GRID, GROUND, PANEL, TEXT
from asyncckpt.report.document import Block, Code, Note, Section, Table, sections
from asyncckpt.report.gathering import Gathered

_STYLE = f"""
:root {{ color-scheme: dark }}
body {{ background: {GROUND}; color: {TEXT}; font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 2rem;
  max-width: 84rem }}
h1 {{ font-size: 1.6rem; overflow-wrap: anywhere }}
h2 {{ font-size: 1.15rem; margin: 2.4rem 0 .8rem; color: {COLORS[0]}; border-bottom: 1px solid {GRID} }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: .87rem }}
th, td {{ padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid {GRID} }}
th {{ color: {FAINT}; font-weight: 600 }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
td.name {{ color: {FAINT}; white-space: nowrap }}
tr.damaged td, tr.failed td {{ color: {BAD} }}
tr.pruned td, tr.superseded td, tr.skipped td {{ color: {FAINT} }}
pre {{ background: {PANEL}; border: 1px solid {GRID}; border-radius: 6px; padding: .9rem; overflow-x: auto;
  font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere }}
img {{ max-width: 100%; border-radius: 6px; margin-top: 1rem }}
p.bad {{ color: {BAD} }}
p {{ color: {FAINT} }}
"""


_STATES = ("damaged", "failed", "pruned", "superseded", "skipped")


def html(run: Gathered) -> str:
    """The page of `run`."""
    body = "\n".join(_section(section) for section in sections(run))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(run.name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(run.name)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    head = f"<h2>{escape(section.title)}</h2>\n" if section.title else ""
    return f"<section>\n{head}" + "\n".join(_block(block) for block in section.blocks) + "\n</section>"


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Note(text, is_bad):
            return f"<p{_class('bad' if is_bad else '')}>{escape(text)}</p>"
    if block.reason:
        return f"<p>{escape(block.reason)}</p>"
    return f'<img alt="{escape(block.text)}" src="data:image/png;base64,{base64.b64encode(block.png).decode()}">'


def _table(table: Table) -> str:
    has_head = any(table.headings)
    kinds = ["number" if heading in table.right else "" for heading in table.headings]
    if not has_head:
        kinds[0] = "name"
    rows = [_row("td", row, kinds, _state(table, row)) for row in table.rows]
    head = f"<thead>{_row('th', table.headings, kinds, '')}</thead>\n" if has_head else ""
    return f'<div class="wide"><table>\n{head}<tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>"


def _row(tag: str, cells: Sequence[str], kinds: Sequence[str], state: str) -> str:
    columns = zip(cells, kinds, strict=True)
    inner = "".join(f"<{tag}{_class(kind)}>{escape(cell)}</{tag}>" for cell, kind in columns)
    return f"<tr{_class(state)}>{inner}</tr>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _state(table: Table, row: Sequence[str]) -> str:
    """What a row of checkpoints is colored by: one of our own words, never what stands in a run."""
    if "State" not in table.headings:
        return ""
    state = row[list(table.headings).index("State")]
    return state if state in _STATES else ""
