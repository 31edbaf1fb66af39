"""Options: what s3fs, gcsfs and adlfs are told, in obstore's words, so that nothing changes for whoever gave them.

What has no counterpart is refused by name: left out, it could mean another account, or plain text where a key was
asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncckpt.errors import StorageError


class Untranslatable(StorageError):
    """obstore cannot be told this option; the library that fsspec uses can."""


@dataclass(slots=True)
class Said:
    """What obstore is told."""

    config: dict[str, Any] = field(default_factory=dict)
    """Of its store."""
    client: dict[str, Any] = field(default_factory=dict)
    """Of its HTTP client."""
    attributes: dict[str, str] = field(default_factory=dict)
    """That every object is stored with."""
    profile: str | None = None
    verify: bool | str | None = None
    is_virtual: bool = False
    """Whether the bucket's name is part of the host's."""


EMULATOR = "STORAGE_EMULATOR_HOST"
"""Where gcsfs, and Google's own libraries, look for the address of an emulator."""

_NO_MATTER = {
    "asynchronous", "loop", "skip_instance_cache", "use_listings_cache", "listings_expiry_time", "max_paths",
    "default_block_size", "default_fill_cache", "default_cache_type", "max_concurrency", "cache_regions",
    "fixed_upload_size", "project", "block_size", "default_location", "asyncckpt",
}  # fmt: skip
"""About how fsspec's files are read and kept, which nobody does here; parts are of one size anyway. And the tuning."""


class _Given:
    """Options that are taken one by one; what is left in the end is refused."""

    def __init__(self, options: Mapping[str, Any], url: str, where: str = "storage_options") -> None:
        self._left = {name: value for name, value in options.items() if value is not None}
        self._url = url
        self._where = where

    def take(self, *names: str) -> Any:
        """The value of the first of `names` that is given."""
        found = [self._left.pop(name) for name in names if name in self._left]
        return found[0] if found else None

    def inner(self, name: str) -> _Given:
        """The options within one of them."""
        return _Given(self.take(name) or {}, self._url, f"{self._where}['{name}']")

    def refuse(self, name: str) -> Untranslatable:
        """The error for one of them."""
        return self.untold(f"obstore cannot be told {self._where}['{name}']; leave it out")

    def untold(self, why: str) -> Untranslatable:
        """The error for what obstore cannot be told."""
        return Untranslatable(f"{self._url}: {why}, or give storage_options backend='fsspec'")

    def end(self) -> None:
        """Raise for what nobody has taken."""
        for name, value in self._left.items():
            if value not in (False, {}):
                raise self.refuse(name)


def translated(scheme: str, options: Mapping[str, Any], url: str) -> Said:
    """What obstore is told for a URL of `scheme`: ``s3``, ``gs`` or ``az``. Raises `Untranslatable`."""
    given = _Given({name: options[name] for name in options.keys() - _NO_MATTER}, url)
    said = {"s3": _s3, "gs": _gs, "az": _az}[scheme](given)
    given.end()
    said.config = {name: value for name, value in said.config.items() if value is not None}
    return said


def _s3(given: _Given) -> Said:
    client, said = given.inner("client_kwargs"), Said()
    said.config = {
        "access_key_id": given.take("key", "username") or client.take("aws_access_key_id"),
        "secret_access_key": given.take("secret", "password") or client.take("aws_secret_access_key"),
        "session_token": given.take("token") or client.take("aws_session_token"),
        "endpoint": given.take("endpoint_url") or client.take("endpoint_url"),
        "region": client.take("region_name"),
        "skip_signature": given.take("anon") or None,
        "request_payer": given.take("requester_pays") or None,
    }
    said.profile, said.verify = given.take("profile"), client.take("verify")
    client.end()
    _stored_with(given.inner("s3_additional_kwargs"), said)
    config = given.inner("config_kwargs")
    style = config.inner("s3")
    said.is_virtual = style.take("addressing_style") == "virtual"
    style.end()
    config.end()
    return said


def _stored_with(extra: _Given, said: Said) -> None:
    said.config["server_side_encryption"] = extra.take("ServerSideEncryption")
    said.config["sse_kms_key_id"] = extra.take("SSEKMSKeyId")
    if (kind := extra.take("StorageClass")) is not None:
        said.attributes["Storage-Class"] = kind
    extra.end()


def _gs(given: _Given) -> Said:
    said = Said(config={"base_url": given.take("endpoint_url")})
    if said.config["base_url"] is None and os.environ.get(EMULATOR, "default") not in ("", "default"):
        raise given.untold(f"{EMULATOR} names an emulator of the interface that obstore does not speak; unset it")
    match given.take("token"):
        case None | "google_default":
            pass
        case "anon":
            said.config["skip_signature"] = True
        case {"type": "service_account"} as key:
            said.config["service_account_key"] = json.dumps(key)
        case str() as path if os.path.exists(path):
            said.config["application_credentials"] = path
        case _:
            raise given.refuse("token")
    return said


def _az(given: _Given) -> Said:
    parts = _connection(given.take("connection_string") or os.environ.get("AZURE_STORAGE_CONNECTION_STRING") or "")
    host, sas = given.take("account_host"), given.take("sas_token") or parts.get("SharedAccessSignature")
    return Said(
        config={
            "account_name": given.take("account_name") or parts.get("AccountName"),
            "account_key": given.take("account_key") or parts.get("AccountKey"),
            "sas_key": sas.removeprefix("?") if sas else None,
            "tenant_id": given.take("tenant_id"),
            "client_id": given.take("client_id"),
            "client_secret": given.take("client_secret"),
            "endpoint": f"https://{host}" if host else parts.get("BlobEndpoint"),
            "skip_signature": given.take("anon") or None,
        }
    )


def _connection(said: str) -> dict[str, str]:
    """What an Azure connection string says."""
    pairs = (part.partition("=") for part in said.split(";") if part)
    parts = {name: value for name, _, value in pairs}
    if "AccountName" in parts and "EndpointSuffix" in parts:
        host = f"{parts['AccountName']}.blob.{parts['EndpointSuffix']}"
        parts.setdefault("BlobEndpoint", f"{parts.get('DefaultEndpointsProtocol', 'https')}://{host}")
    return parts
