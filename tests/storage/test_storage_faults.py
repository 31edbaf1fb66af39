"""Real faults: a full disk, a read-only one, a limit on file sizes, and a store that is killed."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from asyncckpt.errors import ObjectNotFound, StorageDenied
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage
from asyncckpt.testing.store import aligned, attempt, content, keys, stream, unfinished, use

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        reason = f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.root
@pytest.mark.parametrize("announced", [True, False])
def test_a_full_disk_fails_the_put_and_nothing_else(small_disk: Path, announced: bool) -> None:
    async def act(store: Storage) -> None:
        await store.put("old", aligned([2 * MIB]))
        for key in ("old", "new/object"):
            with pytest.raises(StorageDenied, match="no space left; free some"):
                await store.put(key, stream(aligned([MIB] * 3)), length=3 * MIB if announced else None)
        assert await content(store, "old") == b"".join(aligned([2 * MIB]))
        assert await keys(store) == ["old"]
        assert await unfinished(store) == []
        await store.put("fits", [bytes(MIB)])

    use(LocalStorage(small_disk / "run"), act)


@pytest.mark.root
def test_a_full_disk_fails_small_puts_too(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))

    async def act(store: Storage) -> None:
        with pytest.raises(StorageDenied, match="no space left"):
            await store.put("record", [b"x" * 5000])
        with pytest.raises(StorageDenied, match="no space left"):
            await store.put("record", [b"x" * 5000], mode="create")
        assert await keys(store) == ["ballast"]
        assert await unfinished(store) == []

    use(LocalStorage(small_disk), act)


@pytest.mark.root
def test_a_read_only_disk_can_be_read(small_disk: Path) -> None:
    use(LocalStorage(small_disk), lambda store: store.put("a/b", [b"x"]))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    async def act(store: Storage) -> None:
        assert await content(store, "a/b") == b"x"
        assert await keys(store) == ["a/b"]
        for key in ("a/b", "a/c", "d/e"):
            with pytest.raises(StorageDenied, match="read-only; remount"):
                await store.put(key, [b"y"])
        with pytest.raises(StorageDenied, match="read-only; remount"):
            await store.put("f", [b"y"], mode="create")
        with pytest.raises(StorageDenied, match="read-only; remount"):
            await store.probe()
        with pytest.raises(StorageDenied, match="read-only; remount"):
            await store.delete(["a/b"])

    use(LocalStorage(small_disk), act)


def put_under_a_limit(root: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))

    async def act(store: Storage) -> str:
        with pytest.raises(StorageDenied) as caught:
            await store.put("a", stream(aligned([MIB, MIB])))
        with pytest.raises(ObjectNotFound):
            await store.get("a")
        assert await unfinished(store) == []
        await store.put("b", [bytes(1000)])
        return str(caught.value)

    return use(LocalStorage(root), act)


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        assert "raise the limit (ulimit -f)" in process.submit(put_under_a_limit, tmp_path).result()


def race(root: Path, number: int) -> list[str | None]:
    async def act(store: Storage) -> list[str | None]:
        return [await attempt(store, f"commits/{slot:04}", str(number)) for slot in range(30)]

    return use(LocalStorage(root), act)


def test_processes_race_for_creates(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        first, second = processes.map(race, [tmp_path] * 2, range(2))
    for slot, (one, two) in enumerate(zip(first, second, strict=True)):
        assert [one, two].count(None) == 1
        assert (tmp_path / f"commits/{slot:04}").read_text() == (one or two)
    assert use(LocalStorage(tmp_path), keys) == [f"commits/{slot:04}" for slot in range(30)]
