"""A journal that is read again and again: always what reading all of it gives, and only what is new is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.metrics_log.growing import Growing
from asyncckpt.metrics_log.history import rows_of
from asyncckpt.metrics_log.rows import encode
from asyncckpt.storage import LocalStorage, MemoryStorage, Storage
from asyncckpt.testing.requests import FaultyStorage


def line(step: int, second: float = 0.0) -> bytes:
    return encode(step, 1e9 + (second or step), {"loss": 1.0 / (step + 1)})


def run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(act())


@pytest.fixture(params=["disk", "store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path) if request.param == "disk" else MemoryStorage(str(tmp_path))


async def same(growing: Growing, storage: Storage, *, new: bool = True) -> None:
    """One look finds all that is there."""
    assert await growing.look() is new
    rows, bad = await asyncio.to_thread(rows_of, storage, "metrics", None)
    assert (growing.rows, growing.bad) == (rows, bad)


def test_what_is_appended_to_any_of_its_files_is_found(storage: Storage) -> None:
    async def act() -> None:
        growing = Growing(storage, "metrics")
        await same(growing, storage, new=False)
        one, two = line(1), line(5, second=2.5)
        await storage.put("metrics.jsonl", [one])
        await same(growing, storage)
        await same(growing, storage, new=False)
        await storage.put("metrics-2.jsonl", [two])
        await storage.put("metrics.jsonl", [one, line(2), line(3)])
        await same(growing, storage)
        assert [row.step for row in growing.rows] == [1, 2, 5, 3]
        await storage.delete(["metrics-2.jsonl"])
        await same(growing, storage)
        await storage.aclose()

    run(act)


def test_half_a_row_is_read_again_once_it_is_whole(storage: Storage) -> None:
    async def act() -> None:
        growing = Growing(storage, "metrics")
        whole = line(1) + line(2)
        for length in (len(line(1)) + 3, len(whole) - 1, len(whole)):
            await storage.put("metrics.jsonl", [whole[:length]])
            await same(growing, storage)
        assert (len(growing.rows), growing.bad) == (2, 0)
        await storage.put("metrics.jsonl", [whole + b"{}\n" + line(3)])
        await same(growing, storage)
        assert growing.bad == 1
        await storage.aclose()

    run(act)


def test_a_file_in_the_place_of_another_is_read_from_its_beginning(storage: Storage) -> None:
    async def act() -> None:
        growing = Growing(storage, "metrics")
        await storage.put("metrics.jsonl", [line(1), line(2)])
        await same(growing, storage)
        await storage.put("metrics.jsonl", [line(7), line(8), line(9)])  # longer
        await same(growing, storage)
        await storage.put("metrics.jsonl", [line(4)])
        await same(growing, storage)
        await storage.aclose()

    run(act)


def test_of_a_store_only_what_is_new_is_asked_for(tmp_path: Path) -> None:
    async def act() -> None:
        store = FaultyStorage(MemoryStorage(str(tmp_path)))
        growing = Growing(store, "metrics")
        known = b"".join(line(step) for step in range(1000))
        await store.put("metrics.jsonl", [known])
        await growing.look()
        store.requests.clear()
        await growing.look()
        assert [request.split()[0] for request in store.requests] == ["list"]
        read: list[int] = []
        get = store.inner.get

        async def counted(key: str, **where: Any) -> memoryview:
            found = await get(key, **where)
            read.append(len(found))
            return found

        store.inner.get = counted
        await store.put("metrics.jsonl", [known, line(1000)])
        await growing.look()
        assert len(growing.rows) == 1001
        assert sum(read) < 2 * len(line(1000))

    run(act)
