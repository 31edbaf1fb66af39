"""boto3's transfers, with their defaults: parts of 8 MiB, ten at a time."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.clients import Wait
from benchmarks.clients.memory_file import MemoryFile
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
        return lambda: self._client.upload_fileobj(MemoryFile(self.memory), self.place.bucket, KEY)

    def get(self) -> None:
        self._client.download_fileobj(self.place.bucket, KEY, MemoryFile(self.memory))

    def close(self) -> None:
        self._client.close()
