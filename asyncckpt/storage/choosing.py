"""Choosing: which library talks to an object store; ``backend`` in its options, else obstore where that keeps up."""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from asyncckpt.errors import StorageError
from asyncckpt.storage.base import Storage
from asyncckpt.storage.extras import needed

_BACKENDS = ("auto", "obstore", "fsspec")
_FSSPECS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
"""What obstore has a store for, and the library that fsspec uses there."""


@runtime_checkable
class Importing(Protocol):
    """A storage whose libraries are imported when it is asked for the first time, on whatever thread that is."""

    def imports(self, *, writes: bool) -> Sequence[str]:
        """The modules that are imported then; with `writes` also those that only a writer needs, which sweeps."""
        ...


def import_ahead(storage: Storage, *, writes: bool) -> None:
    """Import here and now what `storage` will need, for a training that goes on meanwhile.

    One of those libraries may import another that draws from Python's own generator as it is imported. In the midst of
    a training that would be another order of its data; so it is done before, and the generator is put back. What only a
    writer needs is left to the process that writes: a start waits for all that is imported here.
    """
    drawn = random.getstate()
    try:
        for module in storage.imports(writes=writes) if isinstance(storage, Importing) else ():
            with suppress(ImportError):  # who needs it will say so
                importlib.import_module(module)
    finally:
        random.setstate(drawn)


def object_store(scheme: str, url: str, options: Mapping[str, Any] | None) -> Storage:
    """The storage at `url` through the library that `options` choose with ``backend``.

    ``auto`` is obstore where it is installed and can be told all `options`; where it cannot, that is a fallback of the
    storage. Raises `StorageError`.
    """
    if scheme in ("http", "https"):
        raise StorageError(
            f"{url}: a web server is no root: it takes nothing, and lists nothing that can be relied on. Write the "
            "bucket, as s3://bucket/run, and the server's address as AWS_ENDPOINT_URL_S3 or in storage_options"
        )
    given = dict(options or {})
    backend = given.pop("backend", "auto")
    if backend not in _BACKENDS:
        raise StorageError(f"{url}: storage_options['backend'] is one of {', '.join(_BACKENDS)}, not {backend!r}")
    if backend == "obstore":
        if scheme not in _FSSPECS:
            raise StorageError(f"{url}: obstore is for {', '.join(_FSSPECS)}; leave out backend='obstore'")
        needed("obstore", "fast", url)
    if backend == "fsspec" or scheme not in _FSSPECS or not is_installed("obstore"):
        return _by_fsspec(scheme, url, given, {})
    from asyncckpt.storage.obstore import ObstoreStorage, Untranslatable

    try:
        return ObstoreStorage(url, given)
    except Untranslatable as error:
        if backend == "obstore" or not is_installed(_FSSPECS[scheme]):
            raise
        return _by_fsspec(scheme, url, given, {"obstore": str(error)})


def _by_fsspec(scheme: str, url: str, options: Mapping[str, Any], weaker: Mapping[str, str]) -> Storage:
    if scheme in ("s3", "s3a"):
        from asyncckpt.storage.s3 import S3Storage

        return S3Storage(url, options, weaker)
    from asyncckpt.storage.fsspec import FsspecStorage

    return FsspecStorage(url, options, weaker)


def is_installed(module: str) -> bool:
    """Whether it can be imported, without doing that."""
    return find_spec(module) is not None
