"""Nothing that a user can say is undocumented: parameters, fields and environment variables."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "asyncckpt"
PAGES = [
    ROOT / "README.md",
    ROOT / "MIGRATING.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

PUBLIC = (
    "asyncckpt",
    "asyncckpt.keys",
    "asyncckpt.launch",
    "asyncckpt.metrics",
    "asyncckpt.metrics_log",
    "asyncckpt.plots",
    "asyncckpt.preemption",
    "asyncckpt.report",
    "asyncckpt.run",
    "asyncckpt.trackers",
    "asyncckpt.trainer",
    "asyncckpt.training",
)


GIVEN = ("Run", "SaveHandle")
"""What nobody makes by calling the class."""

UNTOLD = {"args", "kwargs", "self", "event", "clock", "files"}
"""What python puts in, the one argument of every listener, and what tests put in the place of the machine's own."""


def offered(module: str) -> Iterator[Any]:
    """Every function and class that users of `module` can name."""
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", [name for name in vars(found) if not name.startswith("_")]):
        value = getattr(found, name)
        is_ours = str(getattr(value, "__module__", "")).startswith("asyncckpt")
        if is_ours and (inspect.isfunction(value) or inspect.isclass(value)):
            yield value


def fields_told(kind: type) -> str:
    """What stands behind the fields of a class, which python itself forgets."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    told = []
    for field, text in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            told.append(f"{ast.unparse(field.target)}: {text.value.value}")
    return "\n".join(told)


def told_of(value: Any) -> Iterator[tuple[str, str, str]]:
    """Whose parameter, which one, and the docstrings that may tell of it."""
    if inspect.isfunction(value):
        yield from parameters(value.__name__, value, str(value.__doc__))
    elif not issubclass(value, BaseException):
        classes = [kind for kind in value.__mro__ if kind.__module__.startswith("asyncckpt")]
        about = "\n".join(f"{kind.__doc__}\n{fields_told(kind)}" for kind in classes)
        if value.__name__ not in GIVEN and any("__init__" in vars(kind) for kind in classes):
            yield from parameters(value.__name__, value.__init__, f"{about}\n{value.__init__.__doc__}")
        for method in (method for kind in classes for method in vars(kind).values() if inspect.isfunction(method)):
            if not method.__name__.startswith("_"):
                yield from parameters(f"{value.__name__}.{method.__name__}", method, f"{method.__doc__}\n{about}")


def parameters(whose: str, function: Any, doc: str) -> Iterator[tuple[str, str, str]]:
    """Those of a function; what begins with an underscore is nobody's."""
    for name in inspect.signature(function).parameters.keys() - UNTOLD:
        if not name.startswith("_"):
            yield whose, name, doc


@pytest.mark.parametrize("module", PUBLIC)
def test_every_parameter_is_told_of_in_a_docstring_or_in_the_docs(module: str) -> None:
    pages = "\n".join(page.read_text() for page in PAGES)
    shown = set(re.findall(r"\b(\w+)=", pages))
    shown |= {word for code in re.findall(r"`([^`\n]+)`", pages) for word in re.findall(r"\w+", code)}
    unknown = {
        f"{whose}({name}=)"
        for value in offered(module)
        for whose, name, doc in told_of(value)
        if name not in shown and not re.search(rf"\b{name}\b", doc)
    }
    assert unknown == set()


def variables(source: str) -> Iterator[str]:
    """The environment variables of ours that a module names, each a string by itself."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch("ASYNCCKPT_[A-Z_]+", node.value)
        ):
            yield node.value


def test_every_environment_variable_is_in_the_table_and_nothing_else_is() -> None:
    from asyncckpt.launch.slurm.template import NAMES, variable

    table = (ROOT / "docs" / "cli.md").read_text().partition("## Environment")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(_?ASYNCCKPT_[A-Z_]+)`", "".join(re.findall(r"^\| `.*?\|", table, re.MULTILINE))))
    read = {name for path in PACKAGE.rglob("*.py") for name in variables(path.read_text())}
    assert told == read | {variable(name) for name in NAMES} | {"_ASYNCCKPT_COMPLETE"}
