"""Every backend, and the local one on every poorer file system, keeps the storage contract."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage.base import Storage
from asyncckpt.storage.files import Files
from asyncckpt.testing import files as poorer
from asyncckpt.testing.storage import LinkingTests, OpeningTests, StorageSuite


class TestMemory(StorageSuite):
    @pytest.fixture(autouse=True)
    def _root(self) -> None:
        self.store = MemoryStorage("suite")

    def make(self) -> Storage:
        return self.store


class TestLocal(StorageSuite, OpeningTests, LinkingTests):
    files: ClassVar[type[Files]] = Files

    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: Path) -> None:
        self.path = tmp_path / "run"

    def make(self) -> Storage:
        return LocalStorage(self.path, files=self.files())


class TestWithoutDirect(TestLocal):
    files = poorer.WithoutDirect


class TestWithoutPreallocation(TestLocal):
    files = poorer.WithoutPreallocation


class TestWithoutTmpfile(TestLocal):
    files = poorer.WithoutTmpfile


class TestWithoutLinks(TestLocal):
    files = poorer.WithoutLinks


class TestClaimed(TestLocal):
    files = type("Claimed", (poorer.WithoutLinks, poorer.WithoutNoReplace), {})


class TestWithoutSymlinks(TestLocal):
    files = poorer.WithoutSymlinks


class TestWithoutDirectorySync(TestLocal):
    files = poorer.WithoutDirectorySync


class TestWithoutAnything(TestLocal):
    files = poorer.WithoutAnything


class TestWithoutExclusiveCreate(TestLocal):
    files = poorer.WithoutExclusiveCreate
