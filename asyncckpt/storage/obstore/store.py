"""Obstore storage: a bucket of S3, Google Cloud Storage or Azure, through obstore."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.requests import Requests
from asyncckpt.storage.bucket.store import BucketStorage
from asyncckpt.storage.bucket.tuning import tuning_of
from asyncckpt.storage.obstore.client import ObstoreClient
from asyncckpt.storage.obstore.connection import ObstoreConnection, asks_botocore
from asyncckpt.storage.obstore.leftovers import UNSWEPT, Leftovers
from asyncckpt.storage.obstore.options import translated
from asyncckpt.storage.recipe import Recipe
from asyncckpt.storage.s3.store import IMPORTED, S3Storage, s3_client


class ObstoreStorage(BucketStorage):
    """A `Storage` at ``s3://``, ``gs://`` or ``az://bucket/prefix``.

    `options` are what s3fs, gcsfs or adlfs takes, and ``asyncckpt``: see `Tuning`. Raises `Untranslatable` for those
    that obstore cannot be told. Further keys of `fallbacks`: ``part_retries``, ``uploads``.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        names = Names(url)
        self._options = dict(options or {})
        scheme = names.url.partition("://")[0]
        said = translated(scheme, self._options, names.url)
        tuning = tuning_of(self._options.get("asyncckpt", {}), names.url)
        requests = Requests(names.url, tuning, ObstoreConnection(names.url, names.bucket, said, tuning))
        client = ObstoreClient(requests, names, said.attributes)
        if scheme == "s3" and find_spec("s3fs") is not None:
            client.sweeper = S3Storage(url, self._options)
            client.creator = s3_client(names, self._options, tuning, requests.retries)
        elif scheme == "s3":
            client.leftovers = Leftovers(requests, names, client.weaker)
        elif scheme == "gs":
            client.weaker["uploads"] = UNSWEPT.format("uploads")
        super().__init__(names, client, tuning)
        self._obstore = client
        self._asks_botocore = scheme == "s3" and asks_botocore(said)

    def imports(self, *, writes: bool) -> Sequence[str]:
        """See `asyncckpt.storage.choosing.Importing`."""
        asked = ("botocore.session",) if self._asks_botocore else ()
        return ("obstore.store", *asked, *(IMPORTED if writes and self._obstore.sweeper is not None else ()))

    def recipe(self) -> Recipe | None:
        """How another process makes it; None for options that cannot be told it."""
        try:
            said = json.dumps([self.url, self._options])
        except (TypeError, ValueError):
            return None
        return Recipe("asyncckpt.storage.obstore.store", "from_recipe", said)


def from_recipe(said: str) -> ObstoreStorage:
    """What `ObstoreStorage.recipe` describes."""
    return ObstoreStorage(*json.loads(said))
