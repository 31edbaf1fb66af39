"""obstore: one object, read in ranges of 16 MiB, twelve at a time, into memory of its own."""

from __future__ import annotations

import asyncio
import io
from importlib import import_module
from typing import Any

from benchmarks.clients.memory_file import MemoryFile
from benchmarks.loop import Training
from benchmarks.resuming import torch_file

_obstore: Any = import_module("obstore")
_stores: Any = import_module("obstore.store")

_KEY = "state.pt"
_PART = 16 << 20
_CONCURRENCY = 12


class Resuming:
    """One object."""

    def __init__(self, training: Training, url: str, options: dict[str, str]) -> None:
        self._training = training
        bucket, prefix = url.removeprefix("s3://").split("/", 1)
        self._store: Any = _stores.S3Store(
            bucket,
            prefix=prefix,
            endpoint=options["endpoint_url"],
            access_key_id=options["key"],
            secret_access_key=options["secret"],
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def save(self) -> None:
        file = io.BytesIO()
        torch_file.write(self._training, file)
        _obstore.put(self._store, _KEY, file.getbuffer(), chunk_size=_PART, max_concurrency=_CONCURRENCY)

    def read(self) -> None:
        torch_file.read(self._training, MemoryFile(asyncio.run(self._get())))

    async def _get(self) -> memoryview:
        found = await _obstore.head_async(self._store, _KEY)
        memory, room = memoryview(bytearray(found["size"])), asyncio.Semaphore(_CONCURRENCY)

        async def one(at: int) -> None:
            into = memory[at : at + _PART]
            async with room:
                got = await _obstore.get_range_async(self._store, _KEY, start=at, length=len(into))
                into[:] = memoryview(got)

        await asyncio.gather(*map(one, range(0, len(memory), _PART)))
        return memory
