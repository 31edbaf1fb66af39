"""Names: where in which bucket the keys of a root lie, and which of the store's names are keys."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from asyncckpt.errors import StorageError
from asyncckpt.storage.base import check_key

_SAME = {"s3a": "s3", "gcs": "gs"}
_EARLY = re.compile(r"[-.]")


class Names:
    """The names of the root at `url`. Raises `StorageError` for one that names no bucket, or holds credentials."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            host = parts.netloc.rpartition("@")[2]
            raise StorageError(
                f"{parts.scheme}://...@{host}: credentials in a URL end up in logs; pass them in storage_options, or "
                "set them in the environment"
            )
        scheme = _SAME.get(parts.scheme, parts.scheme)
        if not parts.netloc or parts.query or parts.fragment:
            raise StorageError(f"{url}: write {scheme}://bucket/folder")
        self.bucket = parts.netloc
        self._prefix = "".join(f"{name}/" for name in parts.path.split("/") if name)
        self.url = f"{scheme}://{self.bucket}/{self._prefix}".rstrip("/")

    def whole(self, key: str) -> str:
        """The store's name for `key`, or for what keys begin with."""
        return self._prefix + key

    def key(self, name: str) -> str | None:
        """The key that the store's `name` is for, or None where it is none of this root's."""
        key = name.removeprefix(self._prefix)
        if not name.startswith(self._prefix):
            return None
        try:
            return check_key(key)
        except StorageError:
            return None

    def before(self, prefix: str, key: str) -> str | None:
        """A name after which every store lists all that begin with `prefix` and come after `key`, and maybe more.

        Some stores list folder by folder: ``a/b`` before ``a-b``, and none of it after ``a``. After a name that ends
        before the first character which could come before a slash, and then a character earlier, all list alike. None
        where that says nothing.
        """
        begun = prefix[: prefix.rfind("/") + 1]
        if not key.startswith(begun) or "/" in key[len(begun) :]:
            return None
        name = _EARLY.split(key[len(begun) :], maxsplit=1)[0][:-1]
        # Some refuse a name that does not begin with what is asked for.
        return self._prefix + begun + name if name and (begun + name).startswith(prefix) else None
