"""Shared gates: a storage whose requests stop at gates, and fail where told, also those that a worker process makes.

The worker's storage asks the test's at every request, through a socket, whether it may go on. Where the test is no
more, it may.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import threading
from contextlib import suppress

from asyncckpt.storage import LocalStorage
from asyncckpt.storage.recipe import Recipe
from asyncckpt.testing.slow import GatedStorage, Request
from asyncckpt.worker import failures

assert sys.platform == "linux"

_LINE = 1 << 20
_WAITING = 100


class SharedGates(GatedStorage):
    """The gates of a local folder at `root`, for this process and for others, by `name`; to be closed."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(LocalStorage(root))
        self.name = f"asyncckpt-gates-{os.getpid()}-{secrets.token_hex(8)}"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.setblocking(False)
        self._listening.bind(f"\0{self.name}")
        self._listening.listen(_WAITING)
        self._asking: dict[asyncio.Task[None], socket.socket] = {}
        self._loop = asyncio.new_event_loop()
        self._loop.add_reader(self._listening, self._accept)
        self._thread = threading.Thread(target=self._loop.run_forever, name="gates", daemon=True)
        self._thread.start()

    def recipe(self) -> Recipe:
        """See `asyncckpt.storage.recipe.Portable`."""
        return Recipe(__name__, "joined", json.dumps([self.inner.url, self.name]))

    def close(self) -> None:
        """Let everything through, and ask no more."""
        self.release()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def aclose(self) -> None:
        """Not yet: the test has still to look at it."""

    async def _end(self) -> None:
        self._loop.remove_reader(self._listening)
        self._listening.close()
        if asking := dict(self._asking):
            await asyncio.wait(asking, timeout=1)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        for connection in asking.values():  # a task that was cancelled before it began has not
            connection.close()
        await self.inner.aclose()

    # Not asyncio's server: what that has accepted in the turn in which it is closed, it drops and closes not.
    def _accept(self) -> None:
        with suppress(BlockingIOError):  # who asked has gone again
            connection, _ = self._listening.accept()
            connection.setblocking(False)
            task = self._loop.create_task(self._answer(connection))
            self._asking[task] = connection
            task.add_done_callback(self._asking.pop)

    async def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):  # who asked has died meanwhile
            if asked := await self._line(connection):
                said = json.dumps(await self._word(*json.loads(asked))).encode() + b"\n"
                await self._loop.sock_sendall(connection, said)

    async def _line(self, connection: socket.socket) -> bytes:
        """What is asked; nothing where that ends before its end."""
        line = b""
        while not line.endswith(b"\n"):
            part = await self._loop.sock_recv(connection, _LINE)
            if not part:
                return b""
            line += part
        return line

    async def _word(self, request: Request, key: str) -> object:
        """What the request fails with, once it may go on."""
        try:
            await self._arrive(request, key)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return failures.encode(error)
        return None


class Joined(GatedStorage):
    """The same folder in another process, which asks at the gates called `name`."""

    def __init__(self, root: str, name: str) -> None:
        super().__init__(LocalStorage(root))
        self.name = name

    def recipe(self) -> Recipe:
        """See `asyncckpt.storage.recipe.Portable`."""
        return Recipe(__name__, "joined", json.dumps([self.inner.url, self.name]))

    async def _arrive(self, request: Request, key: str) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(f"\0{self.name}", limit=_LINE)
            writer.write(json.dumps([request, key]).encode() + b"\n")
            said = await reader.readline()
            writer.close()
        except ConnectionError:
            return
        if said and (failure := json.loads(said)) is not None:
            raise failures.decode(failure)


def joined(argument: str) -> Joined:
    """The storage of a recipe."""
    root, name = json.loads(argument)
    return Joined(root, name)
