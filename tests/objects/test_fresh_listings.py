"""What is listed is what is there: no cache of ours answers, and none that the training keeps for its own files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import fsspec
import pytest

from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.fsspec import FsspecStorage
from asyncckpt.testing.s3server import S3Server

Write = Callable[..., None]
Open = Callable[[], Storage]


@pytest.fixture(params=["fsspec", "obstore", "any of fsspec's"])
def fresh(request: pytest.FixtureRequest, s3: S3Server, url: str) -> Open:
    """Opens the root as a training does: both libraries for S3, and the way to whatever else fsspec knows."""
    if request.param == "any of fsspec's":
        return lambda: FsspecStorage(url, s3.options())
    return lambda: from_url(url, s3.options(backend=request.param))


@pytest.fixture
def write(s3: S3Server, url: str) -> Write:
    """Somebody else, who puts and deletes with a client of their own."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")

    def write(*puts: str, deletes: tuple[str, ...] = ()) -> None:
        client = s3.client()
        for key in puts:
            client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"x")
        for key in deletes:
            client.delete_object(Bucket=bucket, Key=f"{prefix}/{key}")
        client.close()

    return write


async def seen(store: Storage) -> tuple[list[str], list[bool]]:
    """What is listed under ``a/``, and which of three objects have a head."""
    listed = [info.key async for info in store.list("a/")]
    return listed, [await store.head(f"a/{name}") is not None for name in ("one", "two", "three")]


def test_what_others_write_and_delete_between_two_listings_shows_in_the_second(fresh: Open, write: Write) -> None:
    async def act() -> None:
        store = fresh()
        write("a/one", "a/two")
        assert await seen(store) == (["a/one", "a/two"], [True, True, False])
        write("a/three", deletes=("a/one",))
        assert await seen(store) == (["a/three", "a/two"], [False, True, True])
        write(deletes=("a/two", "a/three"))
        assert await seen(store) == ([], [False, False, False])
        await store.aclose()

    asyncio.run(act())


def test_a_file_system_of_the_users_own_with_the_same_options_lends_its_cache_to_nobody(
    fresh: Open, write: Write, s3: S3Server, url: str
) -> None:
    """fsspec hands the same instance to whoever asks with the same options, and that remembers what it has listed."""
    write("a/one", "a/two")
    users: Any = fsspec.filesystem("s3", **s3.options())
    try:
        folder = f"{url.removeprefix('s3://')}/a"
        before = users.ls(folder, detail=False)
        write("a/three", deletes=("a/one",))
        assert users.ls(folder, detail=False) == before, "it has no cache, and this test shows nothing"

        async def act() -> None:
            store = fresh()
            assert await seen(store) == (["a/three", "a/two"], [False, True, True])
            await store.aclose()

        asyncio.run(act())
        assert fsspec.filesystem("s3", **s3.options()) is users
        assert users.ls(folder, detail=False) == before, "nor is theirs taken from them"
    finally:
        users.clear_instance_cache()
