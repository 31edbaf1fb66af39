"""What holds for every test: helpers that assert say what they compared, and have to be named before any import."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from asyncckpt.testing.azureserver import AzureServer
    from asyncckpt.testing.googleserver import GoogleServer
    from asyncckpt.testing.googlexml import GoogleXml
    from asyncckpt.testing.s3server import IgnoringServer, S3Server

# gcsfs asks a service that the emulator has not what kind a bucket is, at each open. This is read at its import.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

# A run that a shell began with & ignores Ctrl-C, and so would every process that a test begins, and then interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast examples come and go says something of the machine, and nothing of what they are examples of. In CI they are
# the same every time, so that a change is what turns it red; by hand they are new, to find what nobody thought of.
settings.register_profile(
    "unhurried",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("unhurried")

# The simulated accelerator is one of Linux. There a missing compiler is a failure, and nothing is left out.
collect_ignore = [] if sys.platform == "linux" else ["simacc"]

pytest.register_assert_rewrite(
    "asyncckpt.testing",
    "tests.objects.taking_over",
    "tests.worker.crashing",
    "tests.worker.drive",
    "tests.worker.watching",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests begin first: with several workers, one that begins last is waited for by all the others."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


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


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleServer]:
    """An emulator of Google Cloud Storage, with a bucket named ``tests``; for all tests, so none may stop it."""
    from asyncckpt.testing.googleserver import GoogleServer

    with GoogleServer(tmp_path_factory.mktemp("google")) as server:
        server.make_bucket("tests")
        yield server


@pytest.fixture(scope="session")
def google_xml(google: GoogleServer) -> Iterator[GoogleXml]:
    """The same emulator through the interface that obstore speaks, which is translated for it."""
    from asyncckpt.testing.googlexml import GoogleXml

    with GoogleXml(google.port) as server:
        yield server
