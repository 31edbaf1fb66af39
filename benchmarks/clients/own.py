"""This project: saves of a checkpointer, and its store alone."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Literal

from asyncckpt import AsyncCheckpointer, Budget, RetentionPolicy
from asyncckpt.storage.s3 import S3Storage
from benchmarks.clients import Wait
from benchmarks.clients.place import Place
from benchmarks.clients.raw import KEY, Raw
from benchmarks.clients.tensors import Tensors


class Saved(Tensors):
    """Its defaults but for `verify` and the pace, as the other benchmarks have it."""

    executor: Literal["auto", "thread"] = "auto"
    more: ClassVar[dict[str, str]] = {}
    """Further storage options."""

    def __init__(self, place: Place, nbytes: int) -> None:
        super().__init__(nbytes)
        self._checkpointer = AsyncCheckpointer(
            place.url,
            storage_options=place.options | self.more,
            model=self.subject.model,
            optimizer=self.subject.optimizer,
            keep=RetentionPolicy(last=1),
            verify="off",
            executor=self.executor,
            budget=Budget(slowdown=None),
        )
        self.subject.before_update(self._checkpointer.before_mutation)

    def open(self) -> None:
        self._checkpointer.resume()

    def change(self) -> None:
        self._checkpointer.wait()  # until what the last save replaced is gone
        self.subject.step()

    def begin(self, number: int) -> Wait:
        handle = self._checkpointer.save(number)

        def wait() -> None:
            handle.wait()

        return wait

    def get(self) -> None:
        self._checkpointer.resume()

    def close(self) -> None:
        self._checkpointer.close()


class SavedInThread(Saved):
    """Uploaded by a thread of the training's process."""

    executor = "thread"


class SavedByS3fs(Saved):
    """Through s3fs also where obstore is installed."""

    more: ClassVar[dict[str, str]] = {"backend": "fsspec"}


class Stored(Raw):
    """The store alone, which is given the memory as a whole."""

    def __init__(self, place: Place, nbytes: int) -> None:
        super().__init__(place, nbytes)
        self._store = S3Storage(place.url, place.options)

    def open(self) -> None:
        asyncio.run(self._store.probe())

    def begin(self, number: int) -> Wait:
        return lambda: _ignored(asyncio.run(self._store.put(KEY, [self.memory], length=len(self.memory))))

    def get(self) -> None:
        asyncio.run(self._store.get(KEY, into=self.memory))

    def close(self) -> None:
        asyncio.run(self._store.aclose())


def _ignored(_: object) -> None:
    """For a function that is to return nothing."""
