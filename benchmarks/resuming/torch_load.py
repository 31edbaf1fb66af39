"""A file that s3fs, as it is, opens."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.loop import Training
from benchmarks.resuming import torch_file

_s3fs: Any = import_module("s3fs")


class Resuming:
    """One file."""

    def __init__(self, training: Training, url: str, options: dict[str, str]) -> None:
        self._training, self._path = training, f"{url}/state.pt"
        self._files: Any = _s3fs.S3FileSystem(**options)

    def save(self) -> None:
        with self._files.open(self._path, "wb") as file:
            torch_file.write(self._training, file)

    def read(self) -> None:
        with self._files.open(self._path, "rb") as file:
            torch_file.read(self._training, file)
