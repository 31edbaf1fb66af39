"""Streams: a descriptor in the shape that aiofiles reads, for small objects."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from aiofiles.threadpool import wrap

from asyncckpt.storage.files import Files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from aiofiles.threadpool.binary import AsyncFileIO


class Stream(io.FileIO):
    """A file from its beginning; its bytes still go through `Files`, so that no effect escapes a recording."""

    def __init__(self, files: Files, descriptor: int) -> None:
        super().__init__(descriptor, "rb", closefd=False)
        self._files = files
        self._at = 0

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer`, less only at the end of the file."""
        view = memoryview(buffer)
        begin = self._at
        while view and (got := self._files.read(self.fileno(), view, self._at)):
            self._at += got
            view = view[got:]
        return self._at - begin


def stream(files: Files, descriptor: int, executor: Executor) -> AsyncFileIO:
    """An asynchronous file to be read on an open descriptor, which the caller closes."""
    wrapped: AsyncFileIO = wrap(Stream(files, descriptor), loop=asyncio.get_running_loop(), executor=executor)
    return wrapped
