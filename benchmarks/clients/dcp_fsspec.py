"""torch.distributed.checkpoint over s3fs: ``FsspecWriter`` and ``FsspecReader``, with their defaults."""

from __future__ import annotations

from typing import Any

from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from benchmarks.clients import Wait
from benchmarks.clients.place import Place
from benchmarks.clients.tensors import Tensors


class DcpFsspec(Tensors):
    """A checkpoint of one rank, which each save replaces."""

    def __init__(self, place: Place, nbytes: int) -> None:
        super().__init__(nbytes)
        self._url, self._options = place.url, dict[str, Any](place.options)
        self._state: dict[str, Any] = {"model": self.subject.model.state_dict()}

    def open(self) -> None:
        FsspecReader(self._url, **self._options).fs.exists(self._url)

    def change(self) -> None:
        """It sends everything each time."""

    def begin(self, number: int) -> Wait:
        return self._put

    def _put(self) -> None:
        save(self._state, storage_writer=FsspecWriter(self._url, **self._options), no_dist=True)

    def get(self) -> None:
        load(self._state, storage_reader=FsspecReader(self._url, **self._options), no_dist=True)

    def close(self) -> None:
        """Nothing to close."""
