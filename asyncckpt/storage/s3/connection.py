"""Connection: the client that s3fs makes, set up so that it leaves trying again, and checksums, to this package."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncckpt.errors import StorageError
from asyncckpt.storage.bucket.faults import Fault
from asyncckpt.storage.bucket.straight import Straight, is_proxied, trusting
from asyncckpt.storage.bucket.tuning import Tuning
from asyncckpt.storage.extras import needed
from asyncckpt.storage.s3.reasons import fault_of
from asyncckpt.storage.s3.sockets import Sockets

_CONNECTS = {"client_cert", "connector_args", "http_session_cls", "proxies", "proxies_config"}
"""What may be asked for that concerns how connections are made."""


class S3Connection:
    """Its client for one bucket; all on one event loop. `options` are what s3fs takes."""

    def __init__(self, url: str, bucket: str, options: Mapping[str, Any], tuning: Tuning) -> None:
        self._url = url
        self._bucket = bucket
        self._options = options
        self._tuning = tuning
        self._files: Any = None
        self._newest: Any = None
        self._session: Any = None
        """That of the newest of them, which threads ask whom to trust: `renew` takes no part in that."""
        self._left: list[Any] = []
        """Clients whose credentials were refused; others may be in the middle of a request still."""
        self._opening: asyncio.Lock | None = None
        self._sockets = Sockets(tuning.read_timeout)
        self._straight = Straight(tuning, self._trust)

    def renew(self, client: Any) -> None:
        """Have the next request ask for the credentials that there are then, where `client` has the newest."""
        if self._files is not None and client is self._newest:
            self._left.append(self._files)
            self._files = None

    def fault_of(self, error: Exception) -> Fault:
        """What `error` means."""
        return fault_of(error)

    async def client(self) -> Any:
        """An aiobotocore client."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._files is None:
                self._files = await self._opened()
            self._newest = await self._files.get_s3(self._bucket)
            return self._newest

    def straight(self, client: Any) -> Straight | str:
        """What reads straight what `client` has signed URLs for, or why nothing does."""
        if self._options.get("anon"):
            return "requests that are not signed have no signed URLs"
        if told := self._options.get("config_kwargs", {}).keys() & _CONNECTS:
            return f"config_kwargs say how to connect ({', '.join(sorted(told))})"
        return "a proxy is to be asked" if is_proxied(client.meta.endpoint_url) else self._straight

    def _trust(self) -> ssl.SSLContext:
        verify = (self._options.get("client_kwargs") or {}).get("verify")
        if verify is None:  # where botocore looks
            verify = self._session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        given = Path(verify).read_bytes() if isinstance(verify, str | os.PathLike) else None
        return trusting(given, checks=verify is not False)

    async def _opened(self) -> Any:
        s3fs = needed("s3fs", "s3", self._url)
        config = {
            "connect_timeout": self._tuning.connect_timeout,
            "read_timeout": self._tuning.read_timeout,
            "max_pool_connections": self._tuning.concurrency + 4,
            "connector_args": {"socket_factory": self._sockets.make},
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            # Every body has a checksum of its own, which the store checks; hashing it for the signature as well
            # would take longer than sending it.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "s3": {"payload_signing_enabled": False},
            **self._options.get("config_kwargs", {}),
        }
        options = {
            **self._options,
            "config_kwargs": config,
            "asynchronous": True,
            "loop": asyncio.get_running_loop(),
            "skip_instance_cache": True,
            "use_listings_cache": False,
        }
        try:
            files = s3fs.S3FileSystem(**options)
            client = await files.set_session()
        except (TypeError, KeyError) as error:
            raise StorageError(f"{self._url}: storage_options that s3fs does not take: {error}") from error
        self._session = files.session
        client.meta.events.register("before-send.s3", _without_expectation)
        client.meta.events.register("before-sign.s3.DeleteObjects", _with_md5)
        client.meta.events.register_first("choose-signer.s3.GetObject", _signature_of_urls)
        return files

    async def aclose(self) -> None:
        """Close the connections."""
        for files in [*self._left, self._files]:
            if files is not None:
                client = await files.get_s3()
                await client.close()
        self._left, self._files, self._opening = [], None, None
        await self._sockets.shut()
        await self._straight.aclose()


def _without_expectation(request: Any, **_: object) -> None:
    # It would make each part wait for a word of the store before the first byte.
    if "Expect" in request.headers:
        del request.headers["Expect"]


def _with_md5(request: Any, **_: object) -> None:
    # Older stores demand it, and clients no longer send it.
    digest = hashlib.md5(request.data or b"", usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _signature_of_urls(signature_version: object, **_: object) -> str | None:
    # It would sign them by an older version, which most regions no longer take.
    return "s3v4-query" if signature_version in ("v4-query", "s3v4-query") else None
