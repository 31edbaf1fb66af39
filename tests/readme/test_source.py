"""How to read the source: what is said about that names what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "asyncckpt"
LISTED = (
    "checkpoints",
    "fetching",
    "saves",
    "restores",
    "lifecycle",
    "construction",
    "worker/commitlog",
    "worker/process",
)


def told(package: str) -> set[str]:
    """The modules that a package's docstring says something about."""
    return set(
        re.findall(r"``(\w+)``", ast.get_docstring(ast.parse((SOURCE / package / "__init__.py").read_text())) or "")
    )


@pytest.mark.parametrize("package", LISTED)
def test_a_package_says_what_each_of_its_modules_is(package: str) -> None:
    assert told(package) == {path.stem for path in (SOURCE / package).glob("*.py")} - {"__init__", "__main__"}


def test_the_readme_leads_through_files_that_are_there() -> None:
    reading = (ROOT / "README.md").read_text().partition("## Reading the source")[2]
    named = re.findall(r"`([\w/]+\.py)`", reading)
    assert len(named) > 20
    assert [name for name in named if not (SOURCE / name.removeprefix("asyncckpt/")).exists()] == []


def test_the_glossary_leads_through_modules_that_are_there() -> None:
    reading = (ast.get_docstring(ast.parse((SOURCE / "__init__.py").read_text())) or "").partition(
        "To read the source"
    )[2]
    named = re.findall(r"``([a-z_.]+)``", reading)
    assert len(named) > 10
    assert [name for name in named if not (SOURCE / f"{name.replace('.', '/')}.py").exists()] == []
