"""Place: a bucket of its own on the server of the run, for one turn."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from asyncckpt.testing.s3server import KEY, SECRET

REGION = "us-east-1"


@dataclass(frozen=True)
class Place:
    """Where objects go."""

    endpoint: str
    bucket: str

    @property
    def url(self) -> str:
        """As s3fs has it."""
        return f"s3://{self.bucket}/run"

    @property
    def options(self) -> dict[str, str]:
        """What s3fs needs for it."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint}

    def client(self) -> Any:
        """A plain client. To be closed."""
        return importlib.import_module("botocore.session").get_session().create_client("s3", **self.arguments())

    def arguments(self) -> dict[str, str]:
        """What a client of botocore and boto3 needs for it."""
        return {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": KEY,
            "aws_secret_access_key": SECRET,
            "region_name": REGION,
        }


@contextmanager
def place(endpoint: str) -> Iterator[Place]:
    """A new bucket on the server at `endpoint`, which goes again with all that is in it."""
    made = Place(endpoint, f"turn-{secrets.token_hex(8)}")
    with closing(made.client()) as client:
        client.create_bucket(Bucket=made.bucket)
        try:
            yield made
        finally:
            client.delete_bucket(Bucket=made.bucket)  # this server takes one that is not empty
