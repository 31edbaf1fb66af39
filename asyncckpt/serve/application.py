"""Application: which address shows what. Whatever fails is a page, or an answer, with the failure's own sentence."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointCorruptError,
    CheckpointNotFoundError,
    HeadDamaged,
    RunRefused,
)
from asyncckpt.inspection.schema import versioned
from asyncckpt.serve.answers import Answers
from asyncckpt.serve.asked import BadRequest
from asyncckpt.serve.fresh import sentence
from asyncckpt.serve.guard import Guard
from asyncckpt.serve.pages import Pages, Shown
from asyncckpt.serve.rendering import rendered
from asyncckpt.serve.shelf import Shelf

logger = logging.getLogger("asyncckpt")

STATIC = Path(__file__).parent / "static"


def application(shelf: Shelf, names: Collection[str] = ()) -> Starlette:
    """The page over `shelf`, which is answered under those `names` too."""
    pages, answers = Pages(shelf), Answers(shelf)
    shown: dict[str, Callable[[Request], Shown | str]] = {
        "/": pages.index,
        "/run/{name}": pages.run,
        "/run/{name}/{id}": pages.checkpoint,
        "/diff": pages.diff,
        "/compare": pages.compare,
    }
    given = {
        "/api/runs": answers.runs,
        "/api/run/{name}": answers.run,
        "/api/run/{name}/checkpoints": answers.checkpoints,
        "/api/run/{name}/checkpoints/{id}": answers.checkpoint,
        "/api/run/{name}/metrics": answers.metrics,
        "/api/diff": answers.diff,
        "/api/compare": answers.compare,
    }
    return Starlette(
        routes=[
            *(Route(path, _page(show)) for path, show in shown.items()),
            *(Route(path, _answer(give)) for path, give in given.items()),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Guard, names=names)],
        exception_handlers={HTTPException: _failed},
    )


def _page(show: Callable[[Request], Shown | str]) -> Callable[[Request], Response]:
    """The endpoint of a page."""

    def made(request: Request) -> Response:
        found = show(request)
        if isinstance(found, str):
            return RedirectResponse(found)
        template, context = found
        return _tagged(request, rendered(template, request, context).encode(), "text/html")

    return _endpoint(made)


def _answer(give: Callable[[Request], dict[str, Any]]) -> Callable[[Request], Response]:
    """The endpoint of an answer."""
    return _endpoint(lambda request: _tagged(request, JSONResponse(versioned(give(request))).body, "application/json"))


def _endpoint(make: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """An endpoint that is no coroutine, and so runs in a thread: it may wait for a store."""

    def endpoint(request: Request) -> Response:
        try:
            return make(request)
        except AsyncCkptError as error:
            return _failed(request, error)
        except Exception as error:  # a mistake of this package: told where the page is served, and not to the browser
            logger.exception("the page %s could not be made", request.url.path)
            return _failed(request, error)

    return endpoint


def _tagged(request: Request, body: bytes | memoryview, kind: str) -> Response:
    """The answer, or that nothing has changed since the browser asked last."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=kind, headers=headers)


def status_of(error: Exception) -> int:
    """What HTTP calls it."""
    match error:
        case HTTPException():
            return error.status_code
        case BadRequest():
            return 400
        case CheckpointNotFoundError():
            return 404
        case CheckpointCorruptError() | HeadDamaged() | RunRefused():
            return 500
        case AsyncCkptError():
            return 503
    return 500


def _failed(request: Request, error: Exception) -> Response:
    status = status_of(error)
    said = "there is no such page" if isinstance(error, HTTPException) and status == 404 else sentence(error)
    if request.url.path.startswith("/api/"):
        return JSONResponse(versioned({"error": {"status": status, "sentence": said}}), status)
    body = rendered("error.html", request, {"title": str(status), "status": status, "sentence": said})
    return Response(body, status, {"cache-control": "no-store"}, "text/html")
