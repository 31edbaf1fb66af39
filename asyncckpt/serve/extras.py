"""Extras: the libraries of the page, imported when it is served."""

from __future__ import annotations

from asyncckpt.errors import AsyncCkptError
from asyncckpt.extras import imported


class ServeUnavailable(AsyncCkptError):
    """No page can be served; the message says why, and the way out."""


def check_installed() -> None:
    """Raise `ServeUnavailable` that names the extra where a library is missing."""
    for module in ("starlette", "uvicorn", "jinja2"):
        imported(module, "serve", f"the page needs {module}", ServeUnavailable)
