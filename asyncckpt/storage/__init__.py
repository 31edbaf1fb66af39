"""Storage: where checkpoints go. `from_url` knows which backend a root means."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from asyncckpt.errors import StorageError
from asyncckpt.storage.base import Storage
from asyncckpt.storage.local import LocalStorage
from asyncckpt.storage.memory import MemoryStorage

__all__ = ["LocalStorage", "MemoryStorage", "Storage", "from_url", "opened"]

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")

_CHAINED = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+::")
_ONE_SLASH = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/(?!/)")

_memory: dict[str, MemoryStorage] = {}
_memory_lock = threading.Lock()


def from_url(url: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Storage:
    """The storage at `url`: a path or ``file://`` URL of a local folder, ``memory://name``, or an object store's.

    ``~`` is expanded. One name is one `MemoryStorage` in this process. `options` are those of fsspec's file system for
    the scheme; ``backend`` in them chooses the library that talks to an object store: ``auto`` (obstore for S3, Google
    Cloud Storage and Azure, where it is installed), ``obstore`` or ``fsspec``. Raises `StorageError` for what cannot be
    a root, and where the library that it needs is not installed.
    """
    url = os.fspath(url)
    _check_meant(url)
    scheme = _SCHEME.match(url)
    match scheme[1].lower() if scheme else None:
        case None | "file" | "memory" if options:
            raise StorageError(f"{url} takes no storage_options: they are for object stores")
        case None:
            return LocalStorage(os.path.expanduser(url))
        case "file":
            return LocalStorage(_path_of(url))
        case "memory":
            return _named(url.partition("://")[2])
        case other:
            from asyncckpt.storage.choosing import object_store

            return object_store(other, url, options)


def opened(root: str | os.PathLike[str] | Storage, options: Mapping[str, Any] | None) -> Storage:
    """The storage that a user means by `root`: itself, or the one at that path or URL."""
    if isinstance(root, str | os.PathLike):
        return from_url(root, options)
    if options is not None:
        raise StorageError(f"{root.url} is open already: storage_options are for a root that is given as a URL")
    return root


def _check_meant(url: str) -> None:
    """Refuse what looks like a URL and would be a folder with that name here: a training would start from nothing."""
    if not url:  # a variable that is not set: what is meant is not the folder that this happens in
        raise StorageError("an empty text is no root: give a folder (. is this one) or a URL")
    if _CHAINED.match(url) or (_SCHEME.match(url) and "::" in url):
        raise StorageError(
            f"{url}: chained URLs are no roots, since what is cached or packed is neither durable nor fresh; give the "
            f"URL of the store itself, or ./{url} for a folder of that name"
        )
    if (found := _ONE_SLASH.match(url)) is not None:
        slashes = "///" if found[1].lower() == "file" else "//"
        raise StorageError(
            f"{url}: a slash is missing; write {found[1]}:{slashes}{url[found.end() :]} (pathlib takes one out of "
            f"a URL: give it as a str), or ./{url} for a folder of that name"
        )


def _path_of(url: str) -> str:
    from urllib.request import url2pathname  # it brings all of http along, which few runs need

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise StorageError(f"{url}: not a local path; write file:///folder, with three slashes")
    return url2pathname(parts.path)


def _named(name: str) -> MemoryStorage:
    with _memory_lock:
        return _memory.setdefault(name, MemoryStorage(name))
