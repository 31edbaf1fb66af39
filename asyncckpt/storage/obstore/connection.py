"""Connection: obstore's stores for one bucket, told where it is and who asks as every AWS tool would find out."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asyncckpt.errors import StorageError
from asyncckpt.storage.bucket.faults import Fault
from asyncckpt.storage.bucket.requests import LONGEST_PAUSE
from asyncckpt.storage.bucket.signed import LIFETIME
from asyncckpt.storage.bucket.straight import Straight, is_proxied, trusting
from asyncckpt.storage.bucket.tuning import Tuning
from asyncckpt.storage.extras import needed
from asyncckpt.storage.obstore.options import Said
from asyncckpt.storage.obstore.reasons import fault_of

logger = logging.getLogger("asyncckpt")

_PROFILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
"""Where profiles are, and the variables that name other files."""

_KINDS = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}


@dataclass(frozen=True, slots=True)
class Stores:
    """One bucket twice: a store that leaves trying again to this package, and one that does it for parts of uploads."""

    obstore: Any
    asking: Any
    sending: Any
    straight: Straight | None = None
    """Reads what signed URLs name, where they can be made without asking anybody."""
    unfit: str | None = None
    """Why nothing can be read so here."""
    ending_in: Callable[[str], Any] = lambda endpoint: None
    """A store for no objects, at an endpoint of its own: to have its names signed."""


class ObstoreConnection:
    """The stores of one bucket; all on one event loop."""

    def __init__(self, url: str, bucket: str, said: Said, tuning: Tuning) -> None:
        self._url = url
        self._bucket = bucket
        self._said = said
        self._tuning = tuning
        self._stores: Stores | None = None
        self._opening: asyncio.Lock | None = None
        self._straight: Straight | None = None

    def renew(self, client: Stores | None) -> None:
        """Have the next request ask for the credentials that there are then, where `client` has the newest."""
        if client is self._stores:
            self._stores = None

    def fault_of(self, error: Exception) -> Fault:
        """What `error` means."""
        return fault_of(error)

    async def client(self) -> Stores:
        """The stores."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._stores is None:
                self._stores = await asyncio.to_thread(self._opened)
                logger.info("%s: through obstore %s", self._url, self._stores.obstore.__version__)
            return self._stores

    def _opened(self) -> Stores:
        obstore = needed("obstore", "fast", self._url)
        scheme = self._url.partition("://")[0]
        kind = getattr(importlib.import_module("obstore.store"), _KINDS[scheme])
        config, client = dict(self._said.config), dict(self._said.client)
        given: dict[str, Any] = {"config": config, "client_options": client}
        if scheme == "s3":
            if (provider := _told_by_aws(self._url, self._said, config, client)) is not None:
                given["credential_provider"] = provider
            _protect(config)
            config["disable_bulk_delete"] = True
        client["allow_http"] = str(config.get("endpoint") or config.get("base_url") or "").startswith("http://")
        client["connect_timeout"] = timedelta(seconds=self._tuning.connect_timeout)
        client["timeout"] = timedelta(seconds=self._tuning.deadline)
        asking, sending = (kind(self._bucket, **given, retry_config=self._retries(often)) for often in (False, True))
        if scheme != "s3":
            return Stores(obstore, asking, sending)
        if (why := unfit(config.get("endpoint") or "https://s3.amazonaws.com", config)) is not None:
            return Stores(obstore, asking, sending, unfit=why)
        self._straight = self._straight or Straight(self._tuning, lambda: _trust(client))

        def ending_in(endpoint: str) -> Any:
            as_it_is = {"endpoint": endpoint, "virtual_hosted_style_request": True}
            return kind(self._bucket, **{**given, "config": config | as_it_is})

        return Stores(obstore, asking, sending, self._straight, ending_in=ending_in)

    def _retries(self, often: bool) -> dict[str, Any]:
        return {
            "max_retries": self._tuning.attempts - 1 if often else 0,
            "retry_timeout": timedelta(seconds=self._tuning.patience),
            "backoff": {
                "init_backoff": timedelta(seconds=self._tuning.pause),
                "max_backoff": timedelta(seconds=LONGEST_PAUSE),
                "base": 2,
            },
        }

    async def aclose(self) -> None:
        """Let go of the connections."""
        self._stores = self._opening = None
        if self._straight is not None:
            await self._straight.aclose()


def asks_botocore(said: Said) -> bool:
    """Whether botocore is asked where the bucket is and who asks, which takes a quarter of a second to import.

    It is not where it could say no more than the options and the environment do: they name the endpoint and the keys,
    and there is no file of profiles.
    """
    if find_spec("botocore") is None:
        return False
    is_told = "endpoint" in said.config and said.config.keys() & {"access_key_id", "skip_signature"}
    is_named = said.profile or os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    files = (Path(os.environ.get(name) or place) for name, place in _PROFILES.items())
    return not is_told or bool(is_named) or any(file.expanduser().exists() for file in files)


def _told_by_aws(
    url: str, said: Said, config: dict[str, Any], client: dict[str, Any]
) -> Callable[[], dict[str, Any]] | None:
    """Add to `config` and `client` what profiles and the environment say; and who is asked for credentials, if anybody.

    Without botocore obstore looks at the environment and the machine's role by itself.
    """
    session, verify = None, said.verify
    endpoint = config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if asks_botocore(said):
        session = importlib.import_module("botocore.session").Session(profile=said.profile)
        region, endpoint = _place(session, config)
        config["region"] = "us-east-1" if region in (None, "aws-global") else region
        verify = session.get_config_variable("ca_bundle") if verify is None else verify
    elif find_spec("botocore") is not None:
        config.setdefault("region", os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
        verify = os.environ.get("AWS_CA_BUNDLE") if verify is None else verify
    elif said.profile is not None:
        raise StorageError(f"{url}: storage_options['profile'] needs botocore: pip install 'asyncckpt[s3]'")
    config["virtual_hosted_style_request"] = said.is_virtual
    if endpoint:
        place = urlsplit(endpoint)
        host = f"{urlsplit(url).netloc}.{place.netloc}" if said.is_virtual else place.netloc
        config["endpoint"] = f"{place.scheme}://{host}{place.path.rstrip('/')}"
    if verify is False:
        client["allow_invalid_certificates"] = True
    elif isinstance(verify, str):
        client["root_certificate"] = Path(verify).read_bytes()
    return None if session is None or config.keys() & {"access_key_id", "skip_signature"} else _asked(session)


def _asked(session: Any) -> _Credentials:
    credentials = session.get_credentials()
    if credentials is None:
        raise importlib.import_module("botocore.exceptions").NoCredentialsError
    return _Credentials(credentials)


def _place(session: Any, config: Mapping[str, Any]) -> tuple[str | None, str]:
    """The region and the endpoint, as botocore has them."""
    region, endpoint = config.get("region"), config.get("endpoint")
    if endpoint is not None:  # a client, which takes a while to make, would say the same
        return region or session.get_config_variable("region"), endpoint
    asked = session.create_client(
        "s3",
        region_name=region,
        aws_access_key_id=config.get("access_key_id"),
        aws_secret_access_key=config.get("secret_access_key"),
    )
    try:
        return asked.meta.region_name, asked.meta.endpoint_url
    finally:
        asked.close()


def unfit(endpoint: str, config: Mapping[str, Any]) -> str | None:
    """Why what obstore has been told with `config` cannot be read straight, or None if it can."""
    if config.get("skip_signature") or config.get("request_payer"):
        return "requests that are not signed, or are to be paid for, have no signed URLs"
    return "a proxy is to be asked" if is_proxied(endpoint) else None


def _trust(client: Mapping[str, Any]) -> ssl.SSLContext:
    return trusting(client.get("root_certificate"), checks=not client.get("allow_invalid_certificates"))


def _protect(config: dict[str, Any]) -> None:
    """Have the store check every body that it gets: by the signature, or where TLS does, by a cheaper checksum."""
    place = urlsplit(config.get("endpoint") or "https://s3.amazonaws.com")
    is_aws = place.scheme == "https" and f".{place.hostname}".endswith((".amazonaws.com", ".amazonaws.com.cn"))
    if is_aws:
        config |= {"unsigned_payload": True, "checksum_algorithm": "CRC64NVME"}
    elif place.scheme == "http":
        config["unsigned_payload"] = False  # elsewhere AWS_UNSIGNED_PAYLOAD may say otherwise


class _Credentials:
    """Those that botocore has, as obstore asks for them."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def __call__(self) -> dict[str, Any]:
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            # After half of that, obstore asks for them again; whoever has them renews them long before they expire.
            "expires_at": datetime.now(UTC) + LIFETIME,
        }
