"""What the memory storage does beyond the contract."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

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

    listed = threading.Event()

    async def put() -> None:
        for number in count():
            await store.put(f"a/{number}", [b"x"])
            if listed.is_set():
                return

    async def look() -> None:
        try:
            while len(await keys(store)) < 10_000:
                pass
        finally:
            listed.set()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(asyncio.run, put()), threads.submit(asyncio.run, look())]:
            done.result()
