"""Rendering: the HTML of pages, from templates. Whatever is written into one is escaped, unless it was made here."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request

from asyncckpt.report.words import number
from asyncckpt.serve import curves, saves, words
from asyncckpt.sizes import size


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("asyncckpt.serve"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update({"size": size, "number": number, "when": words.when, "span": words.span, "ago": words.ago})
    made.globals.update({"place": words.place, "query": words.query, "curves": curves, "saves": saves})
    return made


def prepare() -> None:
    """Compile every template now, while nobody waits for a page: that takes longer than to write one."""
    for name in _environment().list_templates():
        _environment().get_template(name)


def rendered(template: str, request: Request, context: Mapping[str, Any]) -> str:
    """The page; `up` in it leads to its own root, also where a proxy has put that below another."""
    depth = request.url.path.count("/") - 1
    return _environment().get_template(template).render({"up": "../" * depth or "./", **context})
