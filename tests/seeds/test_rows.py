"""Every feature that was promised has a test named after it: A1 to A25, B1 to B22, C1 to C35, D1 to D38, E1 to E45.

One that was decided otherwise has a line in MIGRATING.md instead, which names what it is about: ``- **A1**: ...``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

LAST = {"a": 25, "b": 22, "c": 35, "d": 38, "e": 45}
PROMISED = {f"{system}{number}" for system, last in LAST.items() for number in range(1, last + 1)} | {"a25b", "b21b"}

MOST = 10
"""Of those that were decided otherwise."""


def covered() -> set[str]:
    """The features that a test function is named after, one or several."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                match = re.match(r"test_((?:[a-e]\d+b?_)+)", node.name, re.IGNORECASE)
                if match:
                    found |= {*match[1].lower().strip("_").split("_")}
    return found


def overruled() -> list[str]:
    """Those that a line of the documentation stands for."""
    return [
        row.lower() for row in re.findall(r"^- \*\*([ABCDE]\d+b?)\*\*: \S", (ROOT / "MIGRATING.md").read_text(), re.M)
    ]


def test_every_feature_has_a_test_or_a_line_that_says_why_not() -> None:
    assert PROMISED - covered() - {*overruled()} == set()


def test_few_were_decided_otherwise_and_none_of_them_is_covered() -> None:
    lines = overruled()
    assert len(lines) <= MOST
    assert len({*lines}) == len(lines)
    assert {*lines} <= PROMISED - covered()


def test_tests_are_named_after_features_that_there_are() -> None:
    assert covered() - PROMISED == set()
