"""Mutants: one line of the library replaced while a test looks on, so that the test proves it would be noticed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest


def mutate(patch: pytest.MonkeyPatch, module: ModuleType, old: str, new: str) -> None:
    """Replace the one occurrence of `old`, within a line of a function of `module`, by `new`."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{module.__name__} has {source.count(old)} times {old!r}"
    assert old.count("\n") == new.count("\n"), "the lines behind must keep their numbers"
    before, after = (
        dict(_functions(compile(text, str(module.__file__), "exec"))) for text in (source, source.replace(old, new))
    )
    changed = [name for name, code in after.items() if code != before[name]]
    assert changed, f"{new!r} changes nothing"
    for name in changed:
        function = _find(module, name)
        # The code object, not the function: whoever imported the function by name gets the mutant too.
        patch.setattr(function, "__code__", after[name])


def _functions(code: CodeType, above: str = "") -> Iterator[tuple[str, CodeType]]:
    """The functions and methods of a module or class, by dotted name."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and not constant.co_name.startswith("<"):
            name = f"{above}{constant.co_name}"
            if constant.co_flags & inspect.CO_NEWLOCALS and constant.co_flags & inspect.CO_OPTIMIZED:
                yield name, constant
            else:
                yield from _functions(constant, f"{name}.")


def _find(module: ModuleType, name: str) -> FunctionType:
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType), name
    return found
