"""What holds for every test: helpers that assert say what they compared, and have to be named before any import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from asyncckpt.testing.azureserver import AzureServer
    from asyncckpt.testing.s3server import IgnoringServer, S3Server

# The simulated accelerator is one of Linux. There a missing compiler is a failure, and nothing is left out.
collect_ignore = [] if sys.platform == "linux" else ["simacc"]

pytest.register_assert_rewrite(
    "asyncckpt.testing",
    "tests.worker.crashing",
    "tests.worker.drive",
    "tests.worker.watching",
)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with a bucket named ``tests``; for all tests, so none may stop it."""
    from asyncckpt.testing.s3server import S3Server

    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("tests")
        server.make_bucket("elsewhere")
        yield server


@pytest.fixture(scope="session")
def ignoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IgnoringServer]:
    """A real S3 server that ignores conditions, with a bucket named ``tests``; for all tests, so none may stop it."""
    from asyncckpt.testing.s3server import IgnoringServer

    with IgnoringServer(tmp_path_factory.mktemp("ignoring")) as server:
        server.make_bucket("tests")
        yield server


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """Microsoft's emulator of Blob Storage, with a container named ``tests``; for all tests, so none may stop it."""
    from asyncckpt.testing.azureserver import AzureServer

    if not AzureServer.is_installed():
        reason = "Azurite is not here: make test gets it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with AzureServer(tmp_path_factory.mktemp("azure")) as server:
        server.make_container("tests")
        yield server
