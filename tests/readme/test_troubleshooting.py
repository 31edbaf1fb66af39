"""docs/troubleshooting.md has every error that users can meet, every line of the log, every fallback, every status."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from asyncckpt import errors
from asyncckpt.cli.exits import INTERRUPTED, PIPE_CLOSED, Exit
from asyncckpt.eventlog import LINES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()

ELSEWHERE = (
    "launch",
    "metrics_log",
    "plots",
    "preemption",
    "report",
    "run",
    "storage",
    "trackers",
    "trainer",
    "training",
)
"""Modules that may have errors of their own among what they offer."""

TOLD_OTHERWISE = {"local", "mirror", "obstore", "notices of aws"}
"""Features of fallbacks whose names are no literals where they are told of."""


def section(heading: str) -> str:
    return re.split(r"^##", PAGE.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_every_error_has_a_heading_and_every_heading_is_an_error() -> None:
    known = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, BaseException)}
    for name in ELSEWHERE:
        module = importlib.import_module(f"asyncckpt.{name}")
        offered = {name: getattr(module, name) for name in module.__all__}
        known |= {n for n, kind in offered.items() if inspect.isclass(kind) and issubclass(kind, BaseException)}
    assert set(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)) == known


def test_every_event_that_is_logged_has_a_row() -> None:
    told = {name for row in rows("## What the log says") for name in re.findall(r"`(\w+)`", row[1])}
    assert {event.__name__ for event in LINES} <= told
    events = importlib.import_module("asyncckpt.events")
    assert [name for name in told if name not in events.__all__] == []


def features(source: str) -> Iterator[str]:
    """The features that a module falls back from, where it names them."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name("Fallback") | ast.Attribute(attr="_degrade" | "slower" | "_slower")):
                yield from said(node.args[0])
            case ast.Call(func=ast.Attribute(ast.Attribute(attr="_fallbacks"), "setdefault")):
                yield from said(node.args[0])
            case ast.Assign(targets=[ast.Subscript(ast.Attribute(attr="_fallbacks" | "weaker"), name)]):
                yield from said(name)


def said(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_every_fallback_has_a_row_and_every_row_is_a_fallback() -> None:
    known = {name for path in (ROOT / "asyncckpt").rglob("*.py") for name in features(path.read_text())}
    assert len(known) > 15
    told = {name for row in rows("### Fallbacks") for name in re.findall(r"`([^`]+)`", row[0].partition("(")[0])}
    assert told == known | TOLD_OTHERWISE


def test_every_status_of_a_command_is_there() -> None:
    told = {int(row[0]): row[1].strip("`") for row in rows("## The status of a command")}
    others = {2: "", INTERRUPTED: "INTERRUPTED", PIPE_CLOSED: "PIPE_CLOSED"}
    assert told == {**{status.value: status.name for status in Exit}, **others}
