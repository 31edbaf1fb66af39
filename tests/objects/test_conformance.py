"""Object stores keep the storage contract: a real S3 server, Azure's emulator, and file systems of fsspec."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from asyncckpt.storage.base import Storage
from asyncckpt.storage.fsspec import FsspecStorage
from asyncckpt.storage.obstore import ObstoreStorage
from asyncckpt.storage.s3 import S3Storage
from asyncckpt.testing.azureserver import AzureServer
from asyncckpt.testing.s3server import S3Server
from asyncckpt.testing.storage import StorageSuite


class TestS3(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self, s3: S3Server) -> None:
        self.server, self.url = s3, f"s3://tests/{secrets.token_hex(8)}/run"

    def make(self) -> Storage:
        return S3Storage(self.url, self.server.options())

    def test_creates_are_exclusive_here(self) -> None:
        assert self.run(lambda store: store.probe()) == "whole"


class TestObstore(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self, s3: S3Server) -> None:
        self.server, self.url = s3, f"s3://tests/{secrets.token_hex(8)}/run"

    def make(self) -> Storage:
        return ObstoreStorage(self.url, self.server.options())

    def test_creates_are_exclusive_here(self) -> None:
        assert self.run(lambda store: store.probe()) == "whole"


class TestAzureByObstore(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self, azure: AzureServer) -> None:
        self.server, self.url = azure, f"az://tests/{secrets.token_hex(8)}/run"

    def make(self) -> Storage:
        return ObstoreStorage(self.url, self.server.options())

    def test_creates_are_exclusive_here(self) -> None:
        assert self.run(lambda store: store.probe()) == "whole"


# It hands a block to aiohttp as bytes, which costs time and nothing else.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
class TestAzureByFsspec(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self, azure: AzureServer) -> None:
        self.server, self.url = azure, f"az://tests/{secrets.token_hex(8)}/run"

    def make(self) -> Storage:
        return FsspecStorage(self.url, self.server.options())

    def test_creates_are_exclusive_here(self) -> None:
        assert self.run(lambda store: store.probe()) == "whole"


class TestFsspecMemory(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self) -> None:
        self.url = f"memory://{secrets.token_hex(8)}/run"

    def make(self) -> Storage:
        return FsspecStorage(self.url)


class TestFsspecFiles(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path) -> None:
        self.path = tmp_path / "run"

    def make(self) -> Storage:
        return FsspecStorage(self.path.as_uri())
