"""obstore is told what s3fs, gcsfs and adlfs would be; and what it cannot be told is not left out in silence."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import StorageError
from asyncckpt.storage import from_url
from asyncckpt.storage.fsspec import FsspecStorage
from asyncckpt.storage.obstore import ObstoreStorage, Untranslatable
from asyncckpt.storage.obstore.connection import ObstoreConnection
from asyncckpt.storage.obstore.options import translated
from asyncckpt.storage.s3 import S3Storage

KEY = {"key": "me", "secret": "hush"}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def opened(url: str, options: dict[str, Any]) -> Any:
    """The store that obstore makes of them."""
    store = ObstoreStorage(url, options)
    connection = store._client.requests.connection
    assert isinstance(connection, ObstoreConnection)
    return asyncio.run(connection.client()).asking


def config(url: str, options: dict[str, Any]) -> dict[str, Any]:
    return dict(opened(url, options).config)


@pytest.mark.parametrize(
    "options",
    [
        {**KEY, "token": "t", "endpoint_url": "http://h:1", "client_kwargs": {"region_name": "r"}},
        {"username": "me", "password": "hush", "token": "t",
         "client_kwargs": {"endpoint_url": "http://h:1", "region_name": "r"}},
        {"client_kwargs": {"aws_access_key_id": "me", "aws_secret_access_key": "hush", "aws_session_token": "t",
                           "endpoint_url": "http://h:1", "region_name": "r"}},
    ],
)  # fmt: skip
def test_s3_in_the_words_of_s3fs(options: dict[str, Any]) -> None:
    found = config("s3://bucket/run", options)
    assert (found["access_key_id"], found["secret_access_key"], found["session_token"]) == ("me", "hush", "t")
    assert (found["endpoint"], found["region"], found["bucket"]) == ("http://h:1", "r", "bucket")
    assert found["virtual_hosted_style_request"] in (False, "false")


def test_s3_in_the_words_of_the_environment_and_of_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(
        "[profile work]\nregion = eu-west-1\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = https://mine\n"
    )
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = mine\naws_secret_access_key = hush\n")
    for store in (opened("s3://b", {"profile": "work"}), _with_profile(monkeypatch)):
        assert (store.config["endpoint"], store.config["region"]) == ("https://mine", "eu-west-1")
        told = store.credential_provider()
        assert (told["access_key_id"], told["secret_access_key"], told["token"]) == ("mine", "hush", None)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://from-the-environment:1")
    assert config("s3://b", {"profile": "work"})["endpoint"] == "http://from-the-environment:1"
    assert config("s3://b", {"profile": "work", "endpoint_url": "http://given"})["endpoint"] == "http://given"


def _with_profile(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_PROFILE", "work")
    return opened("s3://b", {})


def test_who_has_no_credentials_is_told_so() -> None:
    with pytest.raises(StorageError, match="no credentials were found; give others"):
        asyncio.run(_head(ObstoreStorage("s3://b/run", {"endpoint_url": "http://127.0.0.1:1"})))
    with pytest.raises(StorageError, match="there is no such profile"):
        asyncio.run(_head(ObstoreStorage("s3://b/run", {"profile": "none"})))


async def _head(store: ObstoreStorage) -> None:
    try:
        await store.head("a")
    finally:
        await store.aclose()


def test_without_botocore_the_environment_is_all_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://h:1/path/")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    found = config("s3://b", {"config_kwargs": {"s3": {"addressing_style": "virtual"}}})
    assert found["endpoint"] == "http://b.h:1/path"
    with pytest.raises(StorageError, match=r"\['profile'\] needs botocore: pip install 'asyncckpt\[s3\]'"):
        opened("s3://b", {"profile": "work"})


def test_bodies_are_checked_by_the_signature_or_where_tls_protects_that_by_a_checksum() -> None:
    aws = config("s3://b", {**KEY, "client_kwargs": {"region_name": "eu-west-1"}})
    assert aws["endpoint"] == "https://s3.eu-west-1.amazonaws.com"
    assert (aws["unsigned_payload"], aws["checksum_algorithm"].lower()) in ((True, "crc64nvme"), ("true", "crc64nvme"))
    for place in ("http://s3.amazonaws.com", "https://store.example", "https://amazonaws.com.example"):
        elsewhere = config("s3://b", {**KEY, "endpoint_url": place})
        assert elsewhere.get("unsigned_payload", "false") in (False, "false")
        assert "checksum_algorithm" not in elsewhere


def test_the_rest_of_s3() -> None:
    found = translated(
        "s3",
        {
            "anon": True, "requester_pays": True, "max_concurrency": 3, "fixed_upload_size": True, "asyncckpt": {},
            "s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k", "StorageClass": "COLD"},
            "config_kwargs": {"s3": {"addressing_style": "virtual"}}, "client_kwargs": {"verify": False},
        },
        "s3://b",
    )  # fmt: skip
    assert found.config == {
        "skip_signature": True, "request_payer": True, "server_side_encryption": "aws:kms", "sse_kms_key_id": "k",
    }  # fmt: skip
    assert found.attributes == {"Storage-Class": "COLD"}
    assert (found.is_virtual, found.verify) == (True, False)
    virtual = {**KEY, "endpoint_url": "https://h", "config_kwargs": {"s3": {"addressing_style": "virtual"}}}
    assert config("s3://b", virtual)["endpoint"] == "https://b.h"


@pytest.mark.parametrize(
    ("scheme", "options", "named"),
    [
        ("s3", {"session": object()}, r"\['session'\]"),
        ("s3", {"version_aware": True}, r"\['version_aware'\]"),
        ("s3", {"client_kwargs": {"api_version": "x"}}, r"\['client_kwargs'\]\['api_version'\]"),
        ("s3", {"config_kwargs": {"signature_version": "s3"}}, r"\['config_kwargs'\]\['signature_version'\]"),
        (
            "s3",
            {"config_kwargs": {"s3": {"use_accelerate_endpoint": True}}},
            r"\['config_kwargs'\]\['s3'\]\['use_accel",
        ),
        ("s3", {"s3_additional_kwargs": {"ACL": "x"}}, r"\['s3_additional_kwargs'\]\['ACL'\]"),
        ("gs", {"token": "browser"}, r"\['token'\]"),
        ("gs", {"requester_pays": True}, r"\['requester_pays'\]"),
        ("az", {"credential": object()}, r"\['credential'\]"),
    ],
)
def test_what_obstore_cannot_be_told_is_named(scheme: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(Untranslatable, match=rf"storage_options{named}.*backend='fsspec'"):
        translated(scheme, options, f"{scheme}://b")
    with pytest.raises(Untranslatable, match=named):
        from_url(f"{scheme}://b/run", {**options, "backend": "obstore"})


def test_gs_in_the_words_of_gcsfs(tmp_path: Path) -> None:
    key = {"type": "service_account", "client_email": "me", "private_key": "p", "private_key_id": "i"}
    (tmp_path / "key.json").write_text(json.dumps(key))
    assert translated("gs", {"token": key, "project": "p"}, "gs://b").config == {"service_account_key": json.dumps(key)}
    path = str(tmp_path / "key.json")
    assert translated("gs", {"token": path}, "gs://b").config == {"application_credentials": path}
    assert translated("gs", {"token": "google_default"}, "gs://b").config == {}
    found = opened("gs://b/run", {"token": "anon", "endpoint_url": "http://127.0.0.1:4443"})
    assert found.config["bucket"] == "b"
    assert found.config["base_url"] == "http://127.0.0.1:4443"
    assert found.config["skip_signature"] in (True, "true")
    assert "lifecycle rule" in ObstoreStorage("gcs://b/run", {}).fallbacks["uploads"]
    assert ObstoreStorage("gcs://b/run", {}).url == "gs://b/run"


def test_az_in_the_words_of_adlfs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened("az://box/run", {"account_name": "me", "account_key": "aHVzaA=="})
    assert (found.config["container_name"], found.config["account_name"]) == ("box", "me")
    assert found.config["account_key"] == "aHVzaA=="
    whole = "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=aHVzaA==;EndpointSuffix=core.example"
    by_string = {"account_name": "me", "account_key": "aHVzaA==", "endpoint": "https://me.blob.core.example"}
    assert translated("az", {"connection_string": whole}, "az://b").config == by_string
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", whole)
    assert translated("az", {}, "az://b").config == by_string
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    asked = {"account_name": "me", "tenant_id": "t", "client_id": "c", "client_secret": "s", "sas_token": "?sv=1"}
    said = translated("az", asked, "az://b").config
    assert said.pop("sas_key") == "sv=1"
    assert said == {name: value for name, value in asked.items() if name != "sas_token"}
    assert translated("az", {"anon": True, "account_host": "h"}, "az://b").config == {
        "skip_signature": True,
        "endpoint": "https://h",
    }


# -- which library ---------------------------------------------------------------------------------------------


def test_obstore_is_chosen_where_it_is_installed_and_can_be_overruled() -> None:
    for options in ({}, KEY, {"backend": "auto"}, {"backend": "obstore"}):
        store: Any = from_url("s3://b/run", options)
        assert store.backend == "obstore"
    assert isinstance(from_url("s3://b/run", {"backend": "fsspec"}), S3Storage)
    assert from_url("s3://b/run", {"backend": "fsspec"}).fallbacks == {}
    assert isinstance(from_url("gs://b/run"), ObstoreStorage)
    assert isinstance(from_url("az://b/run", {"account_name": "me"}), ObstoreStorage)
    assert isinstance(from_url("local:///runs", {"backend": "fsspec"}), FsspecStorage)


def test_what_obstore_cannot_be_told_is_left_to_s3fs_and_that_is_visible() -> None:
    store = from_url("s3://b/run", {"version_aware": True})
    assert isinstance(store, S3Storage)
    assert "['version_aware']" in store.fallbacks["obstore"]


def test_a_backend_that_there_is_not_is_refused() -> None:
    with pytest.raises(StorageError, match="is one of auto, obstore, fsspec, not 's3fs'"):
        from_url("s3://b/run", {"backend": "s3fs"})
    with pytest.raises(StorageError, match="obstore is for s3, s3a, gs, gcs, az"):
        from_url("local:///runs", {"backend": "obstore"})
