"""Object stores keep the storage contract: a real S3 server, emulators of Azure and Google, file systems of fsspec."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import pytest

from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.fsspec import FsspecStorage
from asyncckpt.storage.obstore import ObstoreStorage
from asyncckpt.storage.s3 import S3Storage
from asyncckpt.testing.azureserver import AzureServer
from asyncckpt.testing.googleserver import GoogleServer
from asyncckpt.testing.googlexml import GoogleXml
from asyncckpt.testing.s3server import IgnoringServer, S3Server
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


class TestObstoreAlone(TestObstore):
    """As with the extra ``fast`` and no other: no s3fs, and nothing that comes with it."""

    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        packages = {"s3fs", "fsspec", "aiobotocore", "botocore"}
        for module in {*packages, *(name for name in sys.modules if name.partition(".")[0] in packages)}:
            monkeypatch.setitem(sys.modules, module, None)

    def make(self) -> Storage:
        store = from_url(self.url, self.server.options())
        assert isinstance(store, ObstoreStorage)
        assert not store.fallbacks
        return store


class TestS3ThatIgnoresConditions(StorageSuite):
    """A server that overwrites where it was asked to create, and says that it has created."""

    @pytest.fixture(autouse=True)
    def _root(self, ignoring: IgnoringServer) -> None:
        self.server, self.url = ignoring, f"s3://tests/{secrets.token_hex(8)}/run"

    def make(self) -> Storage:
        return S3Storage(self.url, self.server.options())

    def test_creates_are_not_exclusive_here(self) -> None:
        assert self.run(lambda store: store.probe()) == "none"

    @pytest.mark.skip(reason="it shows parts of what replaces an object: only hints, and what has a digest, ever do")
    def test_overwrites_are_never_seen_half(self) -> None: ...


class TestObstoreThatIsIgnored(TestS3ThatIgnoresConditions):
    def make(self) -> Storage:
        return ObstoreStorage(self.url, self.server.options())


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


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
class TestGoogleByFsspec(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self, google: GoogleServer) -> None:
        self.server, self.url = google, f"gs://tests/{secrets.token_hex(8)}/run"

    def make(self) -> Storage:
        return FsspecStorage(self.url, self.server.options())

    def test_creates_are_exclusive_here(self) -> None:
        assert self.run(lambda store: store.probe()) == "whole"


class TestGoogleByObstore(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self, google_xml: GoogleXml) -> None:
        self.server, self.url = google_xml, f"gs://tests/{secrets.token_hex(8)}/run"

    def make(self) -> Storage:
        return ObstoreStorage(self.url, self.server.options())

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
