"""A training on Azure's Blob Storage, as Microsoft's emulator has it: by obstore, and by the library of fsspec."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.testing.azureserver import ACCOUNT, ACCOUNT_KEY, AzureServer
from asyncckpt.testing.store import unfinished, use

from ..checkpointer.trainings import Training, steps
from .conftest import Backend
from .taking_over import taken_over
from .test_training import checkpointer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
    # A token for one container may not look whether there is one.
    pytest.mark.filterwarnings("ignore:Failed to fetch container properties:UserWarning"),
]


@pytest.fixture
def url(url: str) -> str:
    return url.replace("s3://", "az://")


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_training_goes_on_from_what_is_there_and_who_had_it_before_is_fenced(
    azure: AzureServer, url: str, backend: Backend, executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_over(url, azure.options(backend=backend), executor, monkeypatch)

    async def look(store: Storage) -> None:
        assert await unfinished(store) == []

    use(from_url(url, azure.options(backend=backend)), look)


def test_a_token_that_has_expired_is_an_error_and_never_a_fresh_start(
    azure: AzureServer, url: str, backend: Backend
) -> None:
    def options(hours: int) -> dict[str, Any]:
        now = datetime.now(UTC)
        may = ContainerSasPermissions(read=True, write=True, delete=True, list=True, create=True)
        token = generate_container_sas(
            ACCOUNT,
            "tests",
            account_key=ACCOUNT_KEY,
            permission=may,
            expiry=now + timedelta(hours=hours),
            start=now - timedelta(hours=3),
        )
        said = f"BlobEndpoint={azure.endpoint}/{ACCOUNT};AccountName={ACCOUNT};SharedAccessSignature={token}"
        return {"connection_string": said, "backend": backend}

    with checkpointer(Training(), url, options(1)) as ckpt:
        ckpt.save(1).wait()
    with checkpointer(Training(), url, options(-1)) as ckpt:
        with pytest.raises(StorageDenied):
            ckpt.resume()
        with pytest.raises(SaveFailed):
            ckpt.save(2).wait()
    with checkpointer(Training(), url, options(1)) as ckpt:
        assert steps(ckpt) == [1]


def test_a_container_that_is_not_there_is_an_error_and_is_not_made(azure: AzureServer, backend: Backend) -> None:
    root = "az://not-there/run"
    with checkpointer(Training(), root, azure.options(backend=backend)) as ckpt:
        with pytest.raises(StorageDenied, match="there is no"):
            ckpt.resume()
        with pytest.raises(SaveFailed, match="there is no"):
            ckpt.save(1).wait()
    # Still not: what had made it would not be asked for it a second time.
    with pytest.raises(StorageDenied, match="there is no"):
        asyncio.run(_listed(from_url(root, azure.options(backend=backend))))


async def _listed(store: Storage) -> None:
    try:
        async for _ in store.list():
            pass
    finally:
        await store.aclose()
