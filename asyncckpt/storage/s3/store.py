"""S3 storage: a bucket of anything that speaks S3's protocol, through s3fs's own client."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.requests import Requests
from asyncckpt.storage.bucket.store import BucketStorage
from asyncckpt.storage.bucket.tuning import Tuning, tuning_of
from asyncckpt.storage.recipe import Recipe
from asyncckpt.storage.s3.client import S3Client
from asyncckpt.storage.s3.connection import S3Connection

IMPORTED = ("s3fs", "aiobotocore.session")
"""What a first request imports."""


class S3Storage(BucketStorage):
    """A `Storage` at ``s3://bucket/prefix``; `options` are what s3fs takes, and ``asyncckpt``: see `Tuning`."""

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, weaker: Mapping[str, str] | None = None
    ) -> None:
        names = Names(url)
        self._options = dict(options or {})
        self._weaker = dict(weaker or {})
        tuning = tuning_of(self._options.get("asyncckpt", {}), names.url)
        super().__init__(names, s3_client(names, self._options, tuning, Counter(), self._weaker), tuning)

    def imports(self, *, writes: bool) -> Sequence[str]:
        """See `asyncckpt.storage.choosing.Importing`."""
        return IMPORTED

    def recipe(self) -> Recipe | None:
        """How another process makes it; None for options that cannot be told it."""
        try:
            said = json.dumps([self.url, self._options, self._weaker])
        except (TypeError, ValueError):
            return None
        return Recipe("asyncckpt.storage.s3.store", "from_recipe", said)


def s3_client(
    names: Names,
    options: Mapping[str, Any],
    tuning: Tuning,
    retries: Counter[str],
    weaker: Mapping[str, str] = MappingProxyType({}),
) -> S3Client:
    """A client of that bucket, which counts in `retries` what it has tried again."""
    given = {name: value for name, value in options.items() if name != "asyncckpt"}
    connection = S3Connection(names.url, names.bucket, given, tuning)
    requests = Requests(names.url, tuning, connection, retries)
    return S3Client(requests, connection, names, given.get("s3_additional_kwargs", {}), weaker)


def from_recipe(said: str) -> S3Storage:
    """What `S3Storage.recipe` describes."""
    return S3Storage(*json.loads(said))
