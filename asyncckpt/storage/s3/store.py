"""S3 storage: a bucket of anything that speaks S3's protocol, through s3fs's own client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.requests import Requests
from asyncckpt.storage.bucket.store import BucketStorage
from asyncckpt.storage.bucket.tuning import tuning_of
from asyncckpt.storage.recipe import Recipe
from asyncckpt.storage.s3.client import S3Client
from asyncckpt.storage.s3.connection import S3Connection


class S3Storage(BucketStorage):
    """A `Storage` at ``s3://bucket/prefix``; `options` are what s3fs takes, and ``asyncckpt``: see `Tuning`."""

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, weaker: Mapping[str, str] | None = None
    ) -> None:
        names = Names(url)
        self._options = dict(options or {})
        self._weaker = dict(weaker or {})
        client = {name: value for name, value in self._options.items() if name != "asyncckpt"}
        tuning = tuning_of(self._options.get("asyncckpt", {}), names.url)
        requests = Requests(names.url, tuning, S3Connection(names.url, names.bucket, client, tuning))
        asking = S3Client(requests, names, client.get("s3_additional_kwargs", {}), self._weaker)
        super().__init__(names, asking, tuning)

    def recipe(self) -> Recipe | None:
        """How another process makes it; None for options that cannot be told it."""
        try:
            said = json.dumps([self.url, self._options, self._weaker])
        except (TypeError, ValueError):
            return None
        return Recipe("asyncckpt.storage.s3.store", "from_recipe", said)


def from_recipe(said: str) -> S3Storage:
    """What `S3Storage.recipe` describes."""
    return S3Storage(*json.loads(said))
