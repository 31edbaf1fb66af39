"""fsspec storage: objects in whatever file system fsspec has an implementation for.

Two kinds are told apart. An object store (an asynchronous implementation) shows an object when it is whole, and may
create exclusively, which `FsspecStorage.probe` finds out. Everything else is taken for files, which can be seen half
written: they are written under a name of their own and then moved, and nothing there is exclusive.
"""

from __future__ import annotations

import errno
import functools
import json
import posixpath
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from asyncckpt.errors import ObjectNotFound, StorageDenied, StorageError, TransientError
from asyncckpt.storage.base import (
    Buffer,
    Exclusive,
    ObjectInfo,
    Parts,
    PutMode,
    UploadInfo,
    check_key,
    each_got,
)
from asyncckpt.storage.cutting import blocks
from asyncckpt.storage.extras import needed
from asyncckpt.storage.raised import translated
from asyncckpt.storage.recipe import Recipe
from asyncckpt.storage.room import room
from asyncckpt.storage.spans import check_length, span
from asyncckpt.storage.threads import Threads

_T = TypeVar("_T")

_BLOCK = 8 << 20
_THREADS = 8
_DRAFT = ".draft-"


class FsspecStorage:
    """A `Storage` at any URL that fsspec knows; `options` are those of its file system.

    May be used from several event loops at once. Keys of `fallbacks`: ``conditional_writes``, ``durability``, and what
    `weaker` says is weaker than it could be.
    """

    backend = "fsspec"

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, weaker: Mapping[str, str] | None = None
    ) -> None:
        if urlsplit(url).password is not None:
            scheme = url.partition("://")[0]
            raise StorageError(f"{scheme}://...: a password in a URL ends up in logs; pass it in storage_options")
        self._url = url.rstrip("/")
        self._options = dict(options or {})
        with translated(self._url):  # some connect at once, by whatever library
            self._files, root = self._opened()
        self._root = root.rstrip("/")
        self._is_object_store = bool(self._files.async_impl)
        # What is not made for it cannot be trusted to serve several threads.
        self._threads = Threads(_THREADS if self._is_object_store else 1)
        self._weaker = dict(weaker or {})
        self._fallbacks = dict(self._weaker)
        self._gives: Exclusive | None = None
        if not self._is_object_store:
            self._gives = "none"
            self._fallbacks["conditional_writes"] = "fsspec's file systems cannot create exclusively"
            self._fallbacks["durability"] = "fsspec cannot tell a file system to write to the disk"

    def _opened(self) -> tuple[Any, str]:
        """The file system, and where in it the root is."""
        core = needed("fsspec.core", "fsspec", self._url)
        own = {"skip_instance_cache": True, "use_listings_cache": False}
        try:
            files, root = core.url_to_fs(self._url, **{**self._options, **own})
        except ImportError as error:
            raise StorageError(f"{self._url} needs a library that is not installed: {error}") from error
        except (TypeError, ValueError) as error:
            raise StorageError(f"{self._url}: fsspec cannot open this: {error}") from error
        return files, root

    @property
    def url(self) -> str:
        """As it was given."""
        return self._url

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """See `Storage.fallbacks`."""
        return MappingProxyType(self._fallbacks)

    def recipe(self) -> Recipe | None:
        """How another process makes it; None for options that cannot be told it, and for this process's memory."""
        if "memory" in self._files.protocol:
            return None
        try:
            said = json.dumps([self._url, self._options, self._weaker])
        except (TypeError, ValueError):
            return None
        return Recipe("asyncckpt.storage.fsspec", "from_recipe", said)

    async def aclose(self) -> None:
        """End the threads."""
        await self._threads.aclose()

    async def _do(self, key: str, act: Callable[[], _T], *, shows: bool = False) -> _T:
        """What `act` returns; with `shows` it may have the object appear, see `translated`."""

        def acted() -> _T:
            with translated(f"{self._url}/{key}", shows=shows):
                return act()

        return await self._threads.call(key, acted)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    # -- writing -------------------------------------------------------------------------------------------

    async def probe(self) -> Exclusive:
        """Find out whether creates are exclusive here, by trying, once; leaves nothing behind."""
        if self._gives is not None:
            return self._gives
        gives: Exclusive = await self._do("", self._probed)
        self._gives = gives
        return gives

    def _probed(self) -> Exclusive:
        path = self._path(f".probe-{secrets.token_hex(8)}")
        try:
            self._files.pipe_file(path, b"", mode="create")
            try:
                self._files.pipe_file(path, b"", mode="create")
            except FileExistsError:
                return "whole"
        finally:
            with suppress(FileNotFoundError):
                self._files.rm_file(path)
        self._fallbacks["conditional_writes"] = "a second create succeeded"
        return "none"

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """Store an object, see `Storage.put`; one that is created is held in memory whole."""
        path = self._path(check_key(key))
        if mode == "create" and await self.probe() == "none":
            raise StorageDenied(errno.ENOTSUP, f"{self._url}: {self._fallbacks['conditional_writes']}")
        async with aclosing(blocks(parts, _BLOCK)) as cut:
            if mode == "create":
                whole = b"".join([block async for block in cut])
                check_length(key, len(whole), length)
                await self._do(key, lambda: self._files.pipe_file(path, whole, mode="create"), shows=True)
                return ObjectInfo(key, len(whole))
            draft = _Draft(self._files, path, is_atomic=self._is_object_store)
            try:
                await self._do(key, draft.begin)
                async for block in cut:
                    await self._do(key, functools.partial(draft.write, block))
                check_length(key, draft.written, length)
                await self._do(key, draft.show, shows=True)
            except BaseException as error:
                try:
                    await self._do(key, draft.discard)
                except StorageError as left:  # what became of the put says the first error alone
                    error.add_note(f"what was sent of it could not be removed: {left}")
                raise
        return ObjectInfo(key, draft.written)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, and the folders that this leaves empty; see `Storage.delete`."""
        paths = [self._path(check_key(key)) for key in keys]
        failed: list[StorageError] = []
        for path in paths:
            try:
                await self._do(path.removeprefix(f"{self._root}/"), functools.partial(self._remove, path))
            except ObjectNotFound:
                pass
            except StorageError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _remove(self, path: str) -> None:
        if not self._is_object_store and not self._files.isfile(path):
            return
        self._files.rm_file(path)
        folder = posixpath.dirname(path)
        with suppress(OSError):  # another object is in it
            while not self._is_object_store and folder.startswith(f"{self._root}/"):
                self._files.rmdir(folder)
                folder = posixpath.dirname(folder)

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """Drafts that were never moved into place. What an object store keeps of its own, fsspec does not say."""
        for path, _ in [] if self._is_object_store else await self._do("", self._found):
            folder, name = posixpath.split(path)
            key = posixpath.join(folder, name.partition(_DRAFT)[0].removeprefix("."))
            if name.startswith(".") and _DRAFT in name and key.startswith(prefix):
                yield UploadInfo(key, path)

    async def abort(self, upload: UploadInfo) -> None:
        """Remove a draft that `uploads` named; a put that is still at it fails."""
        folder, name = posixpath.split(upload.upload)
        check_key(posixpath.join(folder, name.removeprefix(".")))
        with suppress(ObjectNotFound):
            await self._do(upload.key, lambda: self._remove(self._path(upload.upload)))

    # -- reading -------------------------------------------------------------------------------------------

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """Read a range, see `Storage.get`."""
        return await self._do(check_key(key), lambda: self._got(key, start, length, into))

    def _got(self, key: str, start: int, length: int | None, into: Buffer | None) -> memoryview:
        path = self._path(key)
        if start == 0 and length is None and into is None:
            self._length(path)  # a folder is no object
            return memoryview(self._files.cat_file(path))
        count = span(key, self._length(path), start, length, into)
        target = memoryview(
            room(count) if into is None and count > _BLOCK else bytearray(count) if into is None else into
        )
        for at in range(0, count, _BLOCK):
            end = min(at + _BLOCK, count)
            found = self._files.cat_file(path, start=start + at, end=start + end)
            if len(found) != end - at:
                raise TransientError(errno.EAGAIN, f"{self._url}/{key}: was replaced, or cut short, while it was read")
            target[at:end] = found
        return target

    def _length(self, path: str) -> int:
        info = self._files.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return int(info["size"])

    async def get_each(self, keys: Sequence[str]) -> list[memoryview | StorageError]:
        """Read many small objects whole, see `Storage.get_each`."""
        return await each_got(self, keys)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's length, or None if there is none."""
        try:
            return ObjectInfo(key, await self._do(check_key(key), lambda: self._length(self._path(key))))
        except ObjectNotFound:
            return None

    async def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """Every object under `prefix`, sorted, see `Storage.list`."""
        for path, size in await self._do("", self._found):
            is_asked = path.startswith(prefix) and (start_after is None or path > start_after)
            if is_asked and not posixpath.basename(path).startswith("."):
                yield ObjectInfo(path, size)

    def _found(self) -> Sequence[tuple[str, int]]:
        """Everything below the root, drafts included, sorted; also asked anew where fsspec would remember."""
        self._files.invalidate_cache()
        # Else what may not be looked into would be left out.
        strict = {} if self._is_object_store else {"on_error": "raise"}
        try:
            found = self._files.find(self._root, detail=True, **strict)
        except FileNotFoundError:
            found = {}
        if not found and self._is_object_store and not self._files.exists(self._root.partition("/")[0]):
            raise StorageDenied(errno.ENOENT, f"{self._url}: there is no such bucket; create it")
        below = f"{self._root}/"
        names = (
            (name if name.startswith("/") == below.startswith("/") else f"/{name}", info)
            for name, info in found.items()
        )
        return sorted((name.removeprefix(below), info["size"]) for name, info in names if name.startswith(below))


class _Draft:
    """One object being written; methods block."""

    def __init__(self, files: Any, path: str, *, is_atomic: bool) -> None:
        self.written = 0
        self._files = files
        self._path = path
        folder, name = posixpath.split(path)
        # What shows an object only when it is whole needs no other name for what is not.
        self._draft = path if is_atomic else f"{folder}/.{name}{_DRAFT}{secrets.token_hex(4)}"
        self._file: Any = None

    def begin(self) -> None:
        if self._draft == self._path:
            self._file = self._files.open(self._path, "wb", block_size=_BLOCK, autocommit=False)
        else:
            self._files.makedirs(posixpath.dirname(self._path), exist_ok=True)
            self._file = self._files.open(self._draft, "wb")

    def write(self, block: memoryview) -> None:
        self._file.write(block)
        self.written += len(block)

    def show(self) -> None:
        self._file.close()
        if self._draft == self._path:
            self._file.commit()
        else:
            self._files.mv(self._draft, self._path)
        self._file = None

    def discard(self) -> None:
        if self._file is not None:
            if self._draft == self._path:
                self._file.closed = True  # closing it would send the rest, and not all (adlfs) leave it at that
                self._file.discard()
            else:
                self._file.close()
                with suppress(FileNotFoundError):
                    self._files.rm_file(self._draft)
            self._file = None


def from_recipe(said: str) -> FsspecStorage:
    """What `FsspecStorage.recipe` describes."""
    return FsspecStorage(*json.loads(said))
