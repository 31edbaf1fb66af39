"""Wording: what a checkpoint says of itself, from a template that is checked before training begins.

A template is text with fields in braces, as ``str.format`` has them: ``{epoch}``, ``{step}``, and any metric,
``{val_loss:.4f}``. No field is looked into and no code runs; at a save nothing can fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from string import Formatter

ABSENT = "?"
"""Stands for a metric that a checkpoint does not have."""

_TRIALS: tuple[object, ...] = (1, 1.5, "text")


def check_template(template: str) -> str:
    """`template` if every field of it has a name, and a format that a number can have. Raises `ValueError`."""
    try:
        fields = list(_fields(template))
    except ValueError as error:  # a brace that is left open
        raise ValueError(f"message={template!r}: {error}; write {{{{ and }}}} for braces themselves") from None
    for name, spec in fields:
        if not name or name.isdecimal():
            raise ValueError(f"message={template!r}: a field needs a name: {{epoch}}, {{step}}, or a metric's")
        if not any(_formatted(value, spec) for value in _TRIALS):
            raise ValueError(f"message={template!r}: {spec!r} is no format for a number; .4f is one")
    return template


def worded(template: str, step: int, epoch: int | None, metrics: Mapping[str, float]) -> str:
    """What `template` says of that step; a metric cannot take the place of ``{step}`` or ``{epoch}``."""
    known: dict[str, object] = {**metrics, "step": step, "epoch": epoch}
    text = ""
    for literal, name, spec, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            value = known.get(name)
            text += ABSENT if value is None else _formatted(value, spec or "") or str(value)
    return text


def _fields(template: str) -> Iterator[tuple[str, str]]:
    for _, name, spec, conversion in Formatter().parse(template):
        if conversion:
            raise ValueError(f"!{conversion} has no place in it")
        if name is not None:
            yield name, spec or ""


def _formatted(value: object, spec: str) -> str | None:
    try:
        return format(value, spec)
    except (ValueError, TypeError, OverflowError):
        return None
