"""s3fs as it is: what an upload needs with its defaults, and ranges of 16 MiB, ten at a time, for a download."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.clients import Wait
from benchmarks.clients.place import Place
from benchmarks.clients.raw import KEY, Raw

_RANGE = 16 << 20


class S3fs(Raw):
    """It sends nothing but ``bytes``: those it is given are made before."""

    def __init__(self, place: Place, nbytes: int) -> None:
        super().__init__(place, nbytes)
        self._bytes = bytes(self.memory)
        self._files: Any = import_module("s3fs").S3FileSystem(**place.options, skip_instance_cache=True)
        self._path = f"{place.bucket}/{KEY}"

    def open(self) -> None:
        self._files.ls(self.place.bucket)

    def begin(self, number: int) -> Wait:
        return lambda: self._files.pipe_file(self._path, self._bytes)

    def get(self) -> None:
        pieces = list(self.pieces(_RANGE))
        starts = [at for at, _ in pieces]
        ends = [at + len(piece) for at, piece in pieces]
        found = self._files.cat_ranges([self._path] * len(pieces), starts, ends, batch_size=10, on_error="raise")
        for (_, piece), got in zip(pieces, found, strict=True):
            piece[:] = got
