from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from asyncckpt.storage.s3 import S3Storage
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.s3server import S3Server

Open: TypeAlias = Callable[..., S3Storage]

HASTY = {"attempts": 4, "pause": 0.01, "deadline": 20, "read_timeout": 2, "connect_timeout": 2} | {
    "part_size": 5 << 20,
    "range_size": 5 << 20,
}


@pytest.fixture
def url() -> str:
    """A root that nobody else has."""
    return f"s3://tests/{secrets.token_hex(8)}/run"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """The way to the server, on which things can happen."""
    with Proxy(s3.port) as proxy:
        yield proxy


@pytest.fixture
def through(s3: S3Server, proxy: Proxy, url: str) -> Open:
    """Opens the root through the proxy, with little patience; options can be given."""

    def opened(root: str = url, *, tuning: dict[str, float] | None = None, **options: Any) -> S3Storage:
        return S3Storage(root, s3.options(proxy.endpoint, **{"asyncckpt": HASTY | (tuning or {}), **options}))

    return opened
