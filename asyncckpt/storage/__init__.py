"""Storage: where checkpoints go. `from_url` knows which backend a root means."""

from __future__ import annotations

import os
import re
import threading
from urllib.parse import urlsplit

from asyncckpt.errors import StorageError
from asyncckpt.storage.base import Storage
from asyncckpt.storage.local import LocalStorage
from asyncckpt.storage.memory import MemoryStorage

__all__ = ["LocalStorage", "MemoryStorage", "Storage", "from_url"]

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")

_memory: dict[str, MemoryStorage] = {}
_memory_lock = threading.Lock()


def from_url(url: str | os.PathLike[str]) -> Storage:
    """The storage at `url`: a path or ``file://`` URL of a local folder, or ``memory://name``.

    ``~`` is expanded. One name is one `MemoryStorage` in this process. Any other scheme is a `StorageError`.
    """
    url = os.fspath(url)
    scheme = _SCHEME.match(url)
    match scheme[1].lower() if scheme else None:
        case None:
            return LocalStorage(os.path.expanduser(url))
        case "file":
            return LocalStorage(_path_of(url))
        case "memory":
            return _named(url.partition("://")[2])
        case other:
            message = f"{url}: {other}:// is not supported in this version yet, nor is any other object store"
            raise StorageError(f"{message}; give a path on a mounted file system")


def _path_of(url: str) -> str:
    from urllib.request import url2pathname  # it brings all of http along, which few runs need

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise StorageError(f"{url}: not a local path; write file:///folder, with three slashes")
    return url2pathname(parts.path)


def _named(name: str) -> MemoryStorage:
    with _memory_lock:
        return _memory.setdefault(name, MemoryStorage(name))
