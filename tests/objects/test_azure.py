"""A training on Azure's Blob Storage, as Microsoft's emulator has it: by obstore, and by the library of fsspec."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import torch
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from asyncckpt import AsyncCheckpointer, RetentionPolicy, load
from asyncckpt.errors import Fenced, SaveFailed, StorageDenied
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.testing.azureserver import ACCOUNT, ACCOUNT_KEY, AzureServer
from asyncckpt.testing.store import unfinished, use

from ..checkpointer.trainings import Training, elsewhere, steps
from .conftest import Backend
from .test_training import checkpointer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
    # A token for one container may not look whether there is one.
    pytest.mark.filterwarnings("ignore:Failed to fetch container properties:UserWarning"),
]


@pytest.fixture
def url(url: str) -> str:
    return url.replace("s3://", "az://")


def big() -> Training:
    training = Training()
    training.model = torch.nn.Linear(2048, 2048)  # 16 MiB: more than one block
    return training


def trained(ckpt: AsyncCheckpointer, training: Training, *numbers: int) -> None:
    for step in numbers:
        with torch.no_grad():
            training.model.weight.fill_(step)
        ckpt.save(step).wait()


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_training_goes_on_from_what_is_there_and_who_had_it_before_is_fenced(
    azure: AzureServer, url: str, backend: Backend, executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, options = big(), azure.options(backend=backend)
    more: dict[str, Any] = {"optimizer": None, "executor": executor, "keep": RetentionPolicy(last=2)}
    ckpt = checkpointer(training, url, options, **more)
    assert ckpt.resume() is None
    trained(ckpt, training, 1, 2, 3)
    ckpt.wait(60)
    elsewhere(monkeypatch)
    second = big()
    with checkpointer(second, url, options, **more) as other:
        state = other.resume()
        assert state is not None
        assert state.step == 3
        assert second.model.weight.eq(3).all()
        with pytest.raises(SaveFailed) as caught:
            ckpt.save(4).wait()
        assert isinstance(caught.value.failures[4], Fenced)
        trained(other, second, 5)
        assert steps(other) == [3, 5]
    ckpt.close()
    with checkpointer(big(), url, options, **more) as last:  # which removes what the fenced one has left
        last.resume()
        last.wait(60)
    assert load(url, storage_options=options).info.step == 5

    async def look(store: Storage) -> None:
        assert {found.key.split("-")[2] async for found in store.list("data/")} == {"3", "5"}
        assert await unfinished(store) == []

    use(from_url(url, options), look)


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
