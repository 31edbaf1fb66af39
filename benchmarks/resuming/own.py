"""This project, with its defaults."""

from __future__ import annotations

from asyncckpt import AsyncCheckpointer
from benchmarks.loop import Training


class Resuming:
    """A checkpointer."""

    def __init__(self, training: Training, url: str, options: dict[str, str]) -> None:
        self._checkpointer = AsyncCheckpointer(
            url, storage_options=options, model=training.model, optimizer=training.optimizer
        )

    def save(self) -> None:
        self._checkpointer.save(1).wait()

    def read(self) -> None:
        self._checkpointer.resume()
