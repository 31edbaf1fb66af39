"""Asked: what the query of a URL says, as pages need it; what makes no sense is refused in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from asyncckpt.errors import AsyncCkptError

_LONGEST = 18
"""Digits of a number: more would be no step and no page."""


class BadRequest(AsyncCkptError):
    """The URL asks for what makes no sense."""


def whole(query: Mapping[str, str], name: str, default: int) -> int:
    """A whole number from 0. Raises `BadRequest`."""
    said = query.get(name) or str(default)
    if not (said.isascii() and said.isdecimal() and len(said) <= _LONGEST):
        raise BadRequest(f"{name}={said}: use a whole number")
    return int(said)


def one_of(query: Mapping[str, str], name: str, allowed: Mapping[str, object]) -> str:
    """One of the words that are `allowed`, or nothing. Raises `BadRequest`."""
    said = query.get(name, "")
    if said and said not in allowed:
        raise BadRequest(f"{name}={said}: use {', '.join(allowed)}, or leave it out")
    return said


def checkpoint(said: str) -> tuple[str, str]:
    """``RUN@WHICH``: the name of a run and a checkpoint of it, as on the command line. Raises `BadRequest`."""
    run, at, which = said.rpartition("@")
    if not at or not run or not which:
        raise BadRequest(f"{said or 'nothing'}: name a checkpoint as RUN@latest, @best, @STEP, @ID or @TAG")
    return run, which
