"""Roots as people type them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from asyncckpt.errors import StorageError
from asyncckpt.storage import LocalStorage, MemoryStorage, from_url, opened
from asyncckpt.storage.fsspec import FsspecStorage
from asyncckpt.storage.obstore import ObstoreStorage
from asyncckpt.storage.recipe import made, recipe_of
from asyncckpt.storage.s3 import S3Storage
from asyncckpt.testing.servers import HeldPorts
from asyncckpt.testing.store import use


def test_paths_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = os.getcwd()
    for url, path in {
        "run": f"{here}/run",
        "./run/../other": f"{here}/other",
        "~/run": f"{tmp_path}/home/run",
        "/abs/run": "/abs/run",
        "file:///abs/run": "/abs/run",
        "file://localhost/abs/a%20run": "/abs/a run",
        "FILE:///abs/run": "/abs/run",
        "C:/odd": f"{here}/C:/odd",
    }.items():
        store = from_url(url)
        assert isinstance(store, LocalStorage)
        assert store.url == path
    assert from_url(Path("run")).url == f"{here}/run"


def test_a_memory_name_is_one_store() -> None:
    async def act() -> None:
        first, again, other = (from_url(f"memory://{name}") for name in ("one", "one", "two"))
        assert isinstance(first, MemoryStorage)
        assert (first.url, other.url) == ("memory://one", "memory://two")
        await first.put("a", [b"x"])
        await first.aclose()
        assert bytes(await again.get("a")) == b"x"
        assert await other.head("a") is None

    asyncio.run(act())


@pytest.mark.parametrize(
    ("url", "kind", "known_as"),
    [
        ("s3://bucket", ObstoreStorage, "s3://bucket"),
        ("s3://bucket/", ObstoreStorage, "s3://bucket"),
        ("S3://bucket/a/b/", ObstoreStorage, "s3://bucket/a/b"),
        ("s3a://bucket//a", ObstoreStorage, "s3://bucket/a"),
        ("gcs://bucket/a", ObstoreStorage, "gs://bucket/a"),
        ("local:///runs/x/", FsspecStorage, "local:///runs/x"),
    ],
)
def test_the_scheme_says_which_store_it_is(url: str, kind: type, known_as: str) -> None:
    store = from_url(url)
    assert isinstance(store, kind)
    assert store.url == known_as


@pytest.mark.parametrize(
    ("url", "backend", "module", "extra"),
    [
        ("s3://bucket/run", "fsspec", "s3fs", "s3"),
        ("gs://bucket", "fsspec", "fsspec", "fsspec"),
        ("gs://bucket", "obstore", "obstore", "fast"),
    ],
)
def test_what_a_root_needs_and_is_not_installed_is_named(
    url: str, backend: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StorageError, match=rf"pip install 'asyncckpt\[{extra}\]'"):
        use(from_url(url, {"backend": backend}), lambda store: store.head("a"))


def test_without_obstore_everything_goes_through_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    store = from_url("s3://bucket/run")
    assert isinstance(store, S3Storage)
    assert store.fallbacks == {}


def test_an_implementation_that_fsspec_misses_is_named() -> None:
    with pytest.raises(StorageError, match=r"oss://bucket needs a library that is not installed.*ossfs"):
        from_url("oss://bucket", {"backend": "fsspec"})
    with pytest.raises(StorageError, match="no-such-scheme"):
        from_url("no-such-scheme://x")


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
def test_a_web_server_is_no_root(scheme: str) -> None:
    with pytest.raises(StorageError, match=r"a web server is no root: .* s3://bucket/run, .*AWS_ENDPOINT_URL_S3"):
        from_url(f"{scheme}://127.0.0.1:1/bucket/run")


def test_an_implementation_that_connects_at_once_and_cannot_is_an_error_of_ours() -> None:
    with HeldPorts(1) as nobodys, pytest.raises(StorageError, match=r"ftp://127\.0\.0\.1:\d+/run: "):
        from_url(f"ftp://127.0.0.1:{nobodys.numbers[0]}/run")


@pytest.mark.parametrize("url", ["runs/one", "file:///runs/one", "memory://name"])
def test_options_that_would_have_no_effect_are_refused(url: str) -> None:
    with pytest.raises(StorageError, match="takes no storage_options"):
        from_url(url, {"key": "x"})
    assert from_url(url, {}).url
    with pytest.raises(StorageError, match="is open already"):
        opened(from_url(url), {"key": "x"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"asyncckpt": {"atempts": 3}}, "is a mapping of part_size, concurrency"),
        ({"asyncckpt": 3}, "is a mapping of"),
        ({"asyncckpt": {"attempts": 0}}, "positive number"),
        ({"asyncckpt": {"attempts": 2.5}}, "positive number"),
        ({"asyncckpt": {"deadline": "1"}}, "positive number"),
        ({"asyncckpt": {"part_size": 1 << 20}}, "no parts below 5 MiB"),
    ],
)
def test_tuning_that_makes_no_sense_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(StorageError, match=said):
        from_url("s3://bucket/run", options)


def test_options_that_the_client_does_not_take_are_named() -> None:
    with pytest.raises(StorageError, match=r"storage_options that s3fs does not take.*endpoint"):
        use(from_url("s3://bucket/run", {"endpoint": "http://127.0.0.1:1"}), lambda store: store.head("a"))
    with pytest.raises(StorageError, match=r"obstore cannot be told storage_options\['endpoint'\]"):
        from_url("s3://bucket/run", {"endpoint": "http://127.0.0.1:1", "backend": "obstore"})


@pytest.mark.parametrize(("backend", "kind"), [("fsspec", S3Storage), ("obstore", ObstoreStorage)])
def test_a_recipe_does_not_show_what_is_in_it(backend: str, kind: type) -> None:
    store = from_url("s3://bucket/run", {"key": "me", "secret": "hush", "backend": backend})
    recipe = recipe_of(store)
    assert recipe is not None
    assert "hush" not in repr(recipe)
    assert "hush" not in str(recipe)
    again = made(recipe)
    assert isinstance(again, kind)
    assert (again.url, recipe_of(again)) == (store.url, recipe)
    assert recipe_of(from_url("s3://bucket/run", {"session": object()})) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3:/bucket/run", r"write s3://bucket/run "),
        (Path("gs://bucket/run"), r"gs:/bucket/run: .* \(pathlib takes one out of a URL"),
        ("file:/abs/run", r"write file:///abs/run "),
        ("simplecache::s3://bucket/run", r"simplecache::s3://bucket/run: chained URLs are no roots"),
        ("simplecache::/abs/run", "chained"),
        ("zip://run::s3://bucket/file.zip", "chained"),
    ],
)
def test_what_would_become_a_folder_of_that_name_is_refused(url: str | Path, said: str) -> None:
    with pytest.raises(StorageError, match=said) as caught:
        from_url(url)
    assert f"./{url} for a folder of that name" in str(caught.value)
    assert isinstance(from_url(f"./{url}"), LocalStorage)


@pytest.mark.parametrize("url", ["file://run", "file://host/run", "file://"])
def test_a_file_url_that_is_not_local_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="three slashes"):
        from_url(url)
