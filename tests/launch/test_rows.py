"""Every promised feature of launching has a test that is named after it: E1 to E15, E29 to E41, E43 to E45."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]

PROMISED = {f"e{number}" for number in (*range(1, 16), *range(29, 42), *range(43, 46))}


def covered() -> set[str]:
    """The features that a test function is named after, one or several."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                match = re.match(r"test_((?:[a-e]\d+b?_)+)", node.name)
                found |= {*match[1].strip("_").split("_")} if match else set()
    return found


def test_every_feature_of_launching_has_a_test() -> None:
    assert PROMISED - covered() == set()
