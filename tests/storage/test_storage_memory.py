"""What the memory storage does beyond the contract."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.store import keys


@pytest.fixture
def _eager_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager_switching")
def test_it_can_be_listed_while_others_put() -> None:
    store = MemoryStorage()

    async def put() -> None:
        for number in range(3000):
            await store.put(f"a/{number}", [b"x"])

    async def look() -> None:
        while len(await keys(store)) < 3000:
            pass

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(asyncio.run, put()), threads.submit(asyncio.run, look())]:
            done.result()
