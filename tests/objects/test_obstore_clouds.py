"""Google Cloud Storage and Azure, as far as that can be shown without them: what they answer, and what is told then."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import ObjectExists, ObjectNotFound, StorageDenied, StorageError, TransientError
from asyncckpt.storage.base import Storage
from asyncckpt.storage.obstore import ObstoreStorage
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.store import use

from .conftest import HASTY


def opened(scheme: str, endpoint: str) -> ObstoreStorage:
    """A root of that kind at the proxy, which has to answer for it."""
    options: dict[str, Any] = {
        "s3": {"endpoint_url": endpoint, "key": "me", "secret": "hush"},
        "gs": {"endpoint_url": endpoint},
        "az": {
            "anon": True,
            "connection_string": f"AccountName=me;BlobEndpoint={endpoint};DefaultEndpointsProtocol=http",
        },
    }[scheme]
    return ObstoreStorage(f"{scheme}://box/run", {**options, "asyncckpt": {**HASTY, "attempts": 2}})


@pytest.mark.parametrize(
    ("scheme", "status", "code", "kind", "said"),
    [
        ("az", 404, "ContainerNotFound", StorageDenied, "there is no bucket of that name"),
        ("az", 403, "AuthenticationFailed", StorageDenied, "does not accept this secret key"),
        ("az", 403, "AuthorizationPermissionMismatch", StorageDenied, "access denied"),
        ("az", 503, "ServerBusy", TransientError, "answered SlowDown"),
        ("az", 500, "OperationTimedOut", TransientError, "answered OperationTimedOut"),
        ("gs", 404, "NoSuchBucket", StorageDenied, "there is no bucket of that name"),
        ("gs", 401, "AuthenticationRequired", StorageDenied, "access denied"),
        ("gs", 429, "SlowDown", TransientError, "answered SlowDown"),
        ("s3", 301, "PermanentRedirect", StorageDenied, "in another region; give storage_options client_kwargs"),
        ("s3", 501, "NotImplemented", StorageDenied, "does not know this request"),
    ],
)
def test_what_a_service_answers_is_said_in_the_same_words_as_s3s(
    monkeypatch: pytest.MonkeyPatch,
    proxy: Proxy,
    scheme: str,
    status: int,
    code: str,
    kind: type[StorageError],
    said: str,
) -> None:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "t")
    proxy.add("answer", status=status, body=f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

    async def act(store: Storage) -> None:
        with pytest.raises(kind, match=said):
            await store.get("a")

    store = opened(scheme, proxy.endpoint)
    use(store, act)
    assert store.retries == ({"slow_down": 1} if "SlowDown" in said else {"server_error": 1} if status == 500 else {})


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_what_is_there_and_what_is_not(proxy: Proxy, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "t")
    empty, missing, status, exists = {
        "az": ("EnumerationResults><Blobs/></EnumerationResults", "BlobNotFound", 409, "BlobAlreadyExists"),
        "gs": ("ListBucketResult></ListBucketResult", "NoSuchKey", 412, "PreconditionFailed"),
    }[scheme]
    proxy.add("answer", "GET .*(list-type|comp=list)", status=200, body=f"<{empty}>".encode())
    proxy.add("answer", "GET|HEAD|DELETE", status=404, body=f"<Error><Code>{missing}</Code></Error>".encode())
    proxy.add("answer", "PUT", status=status, body=f"<Error><Code>{exists}</Code></Error>".encode())

    async def act(store: Storage) -> None:
        with pytest.raises(ObjectNotFound):
            await store.get("a")
        assert await store.head("a") is None
        if scheme == "gs":  # Azure's answer to a deletion is one in many parts
            await store.delete(["a", "b"])
        with pytest.raises(ObjectExists):
            await store.put("a", [b"x"], mode="create")

    store = opened(scheme, proxy.endpoint)
    monkeypatch.setattr(store, "_gives", "whole")
    use(store, act)


def test_a_store_that_tls_says_is_another_is_not_trusted(tmp_path: Path) -> None:
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"]
    subprocess.run(["openssl", *made, "-subj", "/CN=localhost"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def act() -> None:
        async with await asyncio.start_server(nothing, "127.0.0.1", 0, ssl=context) as server:
            store = opened("s3", f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            try:
                with pytest.raises(StorageDenied, match="not to be trusted; correct endpoint_url, or give"):
                    await store.head("a")
            finally:
                await store.aclose()

    asyncio.run(act())
