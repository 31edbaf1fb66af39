"""Shared gates: a storage whose requests stop at gates, and fail where told, also those that a worker process makes.

The worker's storage asks the test's at every request, through a socket, whether it may go on. Where the test is no
more, it may.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from asyncckpt.storage import LocalStorage
from asyncckpt.storage.recipe import Recipe
from asyncckpt.testing.slow import GatedStorage, Request
from asyncckpt.worker import failures

assert sys.platform == "linux"

_LINE = 1 << 20


class SharedGates(GatedStorage):
    """The gates of a local folder at `root`, for this process and for others, by `name`; to be closed."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(LocalStorage(root))
        self.name = f"asyncckpt-gates-{os.getpid()}-{secrets.token_hex(8)}"
        self._asking: set[asyncio.StreamWriter] = set()
        self._answering: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gates", daemon=True)
        self._thread.start()
        self._served: Future[asyncio.Server] = asyncio.run_coroutine_threadsafe(self._serve(), self._loop)
        self._served.result()

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

    async def _serve(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._asked, f"\0{self.name}", limit=_LINE)

    async def _end(self) -> None:
        self._served.result().close()
        # Again and again: a connection that was just accepted is one task, which makes another that answers it.
        while others := await _others():
            await asyncio.wait(others, timeout=1)
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        for writer in self._asking:  # also of those who were never answered
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await self.inner.aclose()

    def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Here and not in the task, which may be cancelled before it has begun.
        self._asking.add(writer)
        task = self._loop.create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # who asked has died meanwhile
            if asked := await reader.readline():
                writer.write(json.dumps(await self._word(*json.loads(asked))).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _word(self, request: Request, key: str) -> object:
        """What the request fails with, once it may go on."""
        try:
            await self._arrive(request, key)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return failures.encode(error)
        return None


async def _others() -> set[asyncio.Task[Any]]:
    """The other tasks, those too that come of what has happened already: what is accepted, is made, and calls back."""
    for _ in range(5):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


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
