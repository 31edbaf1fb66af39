"""Paging: a long list in pages, so that ten thousand lines cost as little as fifty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Page(Generic[_T]):
    """The `items` of page `number` (from 1) of `pages`; in all there are `total`, and the first here is the `first`."""

    items: Sequence[_T]
    number: int
    pages: int
    total: int
    first: int


def paged(items: Sequence[_T], number: int, each: int) -> Page[_T]:
    """The page of that number, or the nearest that there is."""
    pages = max(1, -(-len(items) // each))
    number = min(max(1, number), pages)
    begin = (number - 1) * each
    return Page(items[begin : begin + each], number, pages, len(items), begin + 1)
