"""Uploads that a killed process has left are found and aborted with obstore alone, by requests that it signs."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import StorageError
from asyncckpt.storage import from_url
from asyncckpt.storage.base import UploadInfo
from asyncckpt.testing.s3server import STRANGER, STRANGERS_SECRET, S3Server
from asyncckpt.testing.store import unfinished


@pytest.fixture
def client(s3: S3Server) -> Iterator[Any]:
    with closing(s3.client()) as client:
        yield client


@pytest.fixture
def alone(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the extra ``fast`` and no other; `client` was made before that."""
    packages = {"s3fs", "fsspec", "aiobotocore"}
    for module in {*packages, *(name for name in sys.modules if name.partition(".")[0] in packages)}:
        monkeypatch.setitem(sys.modules, module, None)


def begun(client: Any, url: str, *keys: str) -> list[str]:
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    return [client.create_multipart_upload(Bucket=bucket, Key=f"{folder}/{key}")["UploadId"] for key in keys]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("folder", ["run", "a folder+more&x=1/run"])
def test_those_of_its_own_root_are_found_and_aborted(s3: S3Server, client: Any, url: str, folder: str) -> None:
    url = f"{url}/{folder}"
    one, other = begun(client, url, "data/one", "user/other")
    (theirs,) = begun(client, f"{url}-2", "data/one")

    async def act() -> None:
        store = from_url(url, s3.options())
        left = [UploadInfo("data/one", one), UploadInfo("user/other", other)]
        assert sorted(await unfinished(store), key=lambda found: found.key) == left
        assert await unfinished(store, "data/") == left[:1]
        for upload in (*left, left[0]):  # absent is no error
            await store.abort(upload)
        assert await unfinished(store) == []
        assert not store.fallbacks
        await store.aclose()

    asyncio.run(act())
    assert s3.stored(f"{url}-2")[1] == [f"{url.partition('tests/')[2]}-2/data/one"]
    bucket, _, key = f"{url}-2/data/one".removeprefix("s3://").partition("/")
    client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=theirs)


@pytest.mark.usefixtures("alone")
def test_none_is_left_after_the_next_start(s3: S3Server, client: Any, url: str) -> None:
    options = s3.options()
    with AsyncCheckpointer(url, model=torch.nn.Linear(1, 1), storage_options=options, executor="thread") as ckpt:
        ckpt.save(1).wait()
    begun(client, url, "data/00000009-step-9-i1-0123abcd/rank-00000-of-00001.p0.safetensors")
    with AsyncCheckpointer(url, model=torch.nn.Linear(1, 1), storage_options=options, executor="thread") as ckpt:
        ckpt.resume()
        ckpt.wait()
    assert s3.stored(url)[1] == []


@pytest.mark.usefixtures("alone")
def test_who_may_not_look_for_them_is_told(s3: S3Server, url: str) -> None:
    async def act() -> None:
        store = from_url(url, s3.options(key=STRANGER, secret=STRANGERS_SECRET))
        with pytest.raises(StorageError, match="access denied"):
            await unfinished(store)
        await store.aclose()

    asyncio.run(act())


@pytest.mark.usefixtures("alone")
def test_where_nothing_may_be_signed_they_are_for_a_lifecycle_rule_which_is_said(
    s3: S3Server, client: Any, url: str
) -> None:
    begun(client, url, "data/one")

    async def act() -> None:
        store = from_url(url, s3.options(requester_pays=True))
        assert await unfinished(store) == []
        assert "lifecycle rule" in store.fallbacks["uploads"]
        await store.aclose()

    asyncio.run(act())


MARKERS = "<NextKeyMarker>a&amp;b/data/1</NextKeyMarker><NextUploadIdMarker>i1</NextUploadIdMarker>"


class Pages(BaseHTTPRequestHandler):
    """A server whose list of uploads comes on two pages; `asked` has what it was asked for."""

    asked: ClassVar[list[dict[str, list[str]]]] = []
    markers: ClassVar[str] = MARKERS
    pages: ClassVar[dict[str, str]] = {
        "": "<IsTruncated>true</IsTruncated><Upload><Key>a&amp;b/data/1</Key><UploadId>i1</UploadId></Upload>",
        "a&b/data/1": "<IsTruncated>false</IsTruncated>"
        "<Upload><Key>a&amp;b/data/2</Key><UploadId>i2</UploadId></Upload>"
        "<Upload><Key>a&amp;b/NO KEY</Key><UploadId>i3</UploadId></Upload>",
    }

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "uploads" in asked:
            self.asked.append(asked)
            after = asked.get("key-marker", [""])[0]
            page = self.pages[after] + ("" if after else self.markers)
            body = f"<ListMultipartUploadsResult>{page}</ListMultipartUploadsResult>".encode()
        else:  # whether the bucket is there
            body = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def served() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("markers", [MARKERS, ""], ids=["said", "as SeaweedFS"])
@pytest.mark.parametrize("library", ["obstore alone", "s3fs"])
def test_they_may_come_on_several_pages(
    library: str, markers: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "obstore alone":
        request.getfixturevalue("alone")
    monkeypatch.setattr(Pages, "markers", markers)
    monkeypatch.setattr(Pages, "asked", [])
    with served() as endpoint:

        async def act() -> list[UploadInfo]:
            store = from_url("s3://bucket/a&b", {"key": "k", "secret": "s", "endpoint_url": endpoint})
            found = await unfinished(store)
            await store.aclose()
            return found

        assert asyncio.run(act()) == [UploadInfo("data/1", "i1"), UploadInfo("data/2", "i2")]
    assert [(asked["prefix"], asked.get("upload-id-marker")) for asked in Pages.asked] == [
        (["a&b/"], None),
        (["a&b/"], ["i1"]),
    ]
