from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import pytest

from asyncckpt.storage import from_url
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.s3server import S3Server

Open: TypeAlias = Callable[..., Any]
Backend: TypeAlias = Literal["fsspec", "obstore"]

HASTY = {"attempts": 4, "pause": 0.01, "part_size": 5 << 20, "range_size": 5 << 20} | {
    # Else a busy machine's server is tried again where nothing is said to have gone wrong.
    "deadline": 120,
    "read_timeout": 120,
    "connect_timeout": 60,
}

SOON = {"attempts": 12, "deadline": 4, "read_timeout": 2}
"""For requests that are never answered."""


@pytest.fixture
def url() -> str:
    """A root that nobody else has."""
    return f"s3://tests/{secrets.token_hex(8)}/run"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """The way to the server, on which things can happen."""
    with Proxy(s3.port) as proxy:
        yield proxy


@pytest.fixture(params=["fsspec", "obstore"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Both libraries that can talk to the server."""
    chosen: Backend = request.param
    return chosen


@pytest.fixture
def through(s3: S3Server, proxy: Proxy, url: str, backend: Backend) -> Open:
    """Opens the root through the proxy, with little patience; options can be given."""

    def opened(root: str = url, *, tuning: dict[str, float] | None = None, **options: Any) -> Any:
        said = {"asyncckpt": HASTY | (tuning or {}), "backend": backend, **options}
        return from_url(root, s3.options(proxy.endpoint, **said))

    return opened
