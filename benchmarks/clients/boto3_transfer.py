"""boto3's transfers, with their defaults: parts of 8 MiB, ten at a time."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

from benchmarks.clients import Wait
from benchmarks.clients.place import Place
from benchmarks.clients.raw import KEY, Raw


class Boto3(Raw):
    """It reads and writes what is like a file."""

    def __init__(self, place: Place, nbytes: int) -> None:
        super().__init__(place, nbytes)
        self._client: Any = import_module("boto3").client("s3", **place.arguments())

    def open(self) -> None:
        self._client.list_objects_v2(Bucket=self.place.bucket)

    def begin(self, number: int) -> Wait:
        return lambda: self._client.upload_fileobj(_Memory(self.memory), self.place.bucket, KEY)

    def get(self) -> None:
        self._client.download_fileobj(self.place.bucket, KEY, _Memory(self.memory))

    def close(self) -> None:
        self._client.close()


class _Memory(io.RawIOBase):
    """Memory as a file, without a copy of its own."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._at = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._memory))[whence]
        return self._at

    def readinto(self, into: Any) -> int:
        found = self._memory[self._at : self._at + len(into)]
        into[: len(found)] = found
        self._at += len(found)
        return len(found)

    def write(self, data: Any) -> int:
        self._memory[self._at : self._at + len(data)] = data
        self._at += len(data)
        return len(data)
