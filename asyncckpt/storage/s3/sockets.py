"""Sockets: the connections of one store. One whose peer no longer takes anything is given up, not waited for."""

from __future__ import annotations

import asyncio
import socket
import sys
import weakref
from contextlib import suppress
from typing import Any

_TURNS = 1000


class Sockets:
    """Makes sockets, and knows those that are open; `patience` is in seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def make(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for what ``getaddrinfo`` gives."""
        made = socket.socket(*address[:3])
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            # A client only watches for answers: that a body is stuck nobody else would notice before the deadline.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._patience * 1000))
        self._made.add(made)
        return made

    async def shut(self) -> None:
        """Have all of them closed: what was still to be sent, to a peer that may never take it, is not."""
        for made in self._open():
            with suppress(OSError):  # not connected any more
                made.shutdown(socket.SHUT_RDWR)
        for _ in range(_TURNS):
            if not self._open():
                return
            await asyncio.sleep(0)

    def _open(self) -> list[socket.socket]:
        return [made for made in self._made if made.fileno() != -1]
