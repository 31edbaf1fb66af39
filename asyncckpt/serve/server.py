"""Server: listens, and answers until it is told to end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

import uvicorn

from asyncckpt.serve.application import application
from asyncckpt.serve.extras import ServeUnavailable
from asyncckpt.serve.reader import Reader
from asyncckpt.serve.rendering import prepare
from asyncckpt.serve.shelf import Shelf

_BACKLOG = 128
_GRACE = 3
"""Seconds for answers that are under way once it is to end."""


def serve(
    root: str, address: str, port: int, *, names: Collection[str] = (), told: Callable[[str], None] = print
) -> None:
    """Serve the page over `root` at that address until SIGINT or SIGTERM, which is raised again; blocks.

    `told` is told the URL once it is answered; a browser may ask for it by one of `names` too. Raises
    `ServeUnavailable` where nobody can listen there, and what `Shelf.runs` raises.
    """
    with listening(address, port) as ear, Reader() as reader:
        shelf = Shelf(root, reader)
        shelf.begin()
        prepare()
        config = uvicorn.Config(
            application(shelf, names), log_level="warning", access_log=False, server_header=False, lifespan="off",
            timeout_graceful_shutdown=_GRACE,
        )  # fmt: skip
        told(url_of(ear))
        try:
            uvicorn.Server(config).run(sockets=[ear])
        finally:
            shelf.close()


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens; with port 0 at any that is free. Raises `ServeUnavailable`."""
    try:
        family, _, _, _, (host, *_) = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(host), port), family=family, backlog=_BACKLOG)
    except OSError as error:
        why = error.strerror or str(error)
        raise ServeUnavailable(
            f"nobody can listen at {address} port {port} ({why}): use another --port (0 for a free one), or --address"
        ) from error


def url_of(ear: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = ear.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
