"""Local storage: objects as files below a folder.

A put is a hidden draft beside its target, synced, published, and made durable with its folders (see ``publish``).
Big objects are written past the page cache from the caller's own memory (``direct``); small ones are read whole
through aiofiles. Every blocking call runs in the storage's own threads.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from asyncckpt.errors import OutcomeUnknown, StorageDenied, StorageError
from asyncckpt.storage import walk
from asyncckpt.storage.base import Buffer, Exclusive, ObjectInfo, Parts, PutMode, UploadInfo, check_key
from asyncckpt.storage.direct import CHUNK, Writer, groups
from asyncckpt.storage.files import Files
from asyncckpt.storage.folders import Folders
from asyncckpt.storage.ladder import Ladder
from asyncckpt.storage.publish import Draft, Replacing, temporary
from asyncckpt.storage.reading import Kept, Source, length_of
from asyncckpt.storage.reasons import UNCERTAIN, UNSUPPORTED, named, translate, translated
from asyncckpt.storage.recipe import Recipe
from asyncckpt.storage.room import room
from asyncckpt.storage.spans import check_length, span
from asyncckpt.storage.stream import stream
from asyncckpt.storage.threads import Threads

_SMALL = 1 << 20
_BATCH = 256
_NO_SYMLINKS = UNSUPPORTED | {errno.EPERM}


class LocalStorage:
    """A `Storage` in a folder of a local disk, which the first put makes; also `Opening` and `Linking`.

    May be used from several event loops at once, and by several instances and processes on one root.
    Network file systems are right only if the conformance suite passes from two hosts at once.
    """

    def __init__(self, root: str | os.PathLike[str], *, files: Files | None = None) -> None:
        self._files = files or Files()
        self._root = os.path.abspath(root)
        self._fallbacks: dict[str, str] = {}
        self._folders = Folders(self._files, self._root, self._fallbacks)
        self._ladder = Ladder(self._files, self._folders, self._fallbacks)
        self._threads = Threads()

    @property
    def url(self) -> str:
        """The root's absolute path."""
        return self._root

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """Keys: ``direct_io``, ``preallocation``, ``publish``, ``directory_sync``, ``symlinks``."""
        return MappingProxyType(self._fallbacks)

    def recipe(self) -> Recipe | None:
        """How another process makes it; None for a subclass, and where it was given files of its own."""
        is_plain = type(self) is LocalStorage and type(self._files) is Files
        return Recipe("asyncckpt.storage", "LocalStorage", self._root) if is_plain else None

    async def probe(self) -> Exclusive:
        """Find out how creates behave here, by trying; leaves nothing behind."""
        best = await self._threads.call(self._root, self._ladder.best)
        return best.gives if best else "none"

    async def aclose(self) -> None:
        """End the threads, after what they are doing."""
        await self._threads.aclose()

    # -- writing ---------------------------------------------------------------------------------

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        """Store an object, see `Storage.put`; a `length` that `parts` do not have is a `StorageError`.

        A cancellation that comes while the object is synced and published, or while a small one is put, is raised
        when that is over: the object is there then.
        """
        path = self._folders.path(check_key(key))
        draft = (await self._kind_of_draft(mode))(self._files, path)
        try:
            written = await self._stored(draft, parts, length)
        except BaseException:
            await self._threads.call(path, self._discard, draft)
            raise
        return ObjectInfo(key, written)

    async def _kind_of_draft(self, mode: PutMode) -> type[Draft]:
        if mode == "overwrite":
            return Replacing
        best = self._ladder.known or await self._threads.call(self._root, self._ladder.best)
        if best is None:
            message = f"{self._root}: this file system cannot create exclusively; {self._fallbacks['publish']}"
            raise StorageDenied(errno.ENOTSUP, message)
        return best

    def _discard(self, draft: Draft) -> None:
        draft.discard()
        folder = os.path.dirname(draft.target)
        if folder != self._root:
            with suppress(OSError):  # why the put failed is what counts; an empty folder is left to the sweep
                self._folders.prune(folder)

    async def _stored(self, draft: Draft, parts: Parts, length: int | None) -> int:
        """All that a put does, in as few changes of threads as it can be: each takes longer than most of its calls."""
        if isinstance(parts, AsyncIterable):
            return await self._store_stream(draft, parts, length)
        total = sum(map(len, parts))
        check_length(draft.target, total, length)
        if total <= _SMALL:
            await self._threads.call(draft.target, self._store_small, draft, b"".join(parts))
        else:
            await self._store_large(draft, parts, total)
        return total

    def _store_small(self, draft: Draft, content: bytes) -> None:
        self._open(draft)
        writer = Writer(self._files, draft.descriptor, self._fallbacks)  # not begun: through the page cache
        writer.write([memoryview(content)])
        self._finish(draft, writer)

    async def _store_large(self, draft: Draft, parts: Sequence[Buffer], total: int) -> None:
        writer = await self._threads.call(draft.target, self._begin, draft, total)
        for group in groups(parts):
            await self._threads.call(draft.target, writer.write, group)
        await self._threads.call(draft.target, self._finish, draft, writer)

    async def _store_stream(self, draft: Draft, parts: AsyncIterable[Buffer], length: int | None) -> int:
        writer = await self._threads.call(draft.target, self._begin, draft, length)
        async for part in parts:
            await self._threads.call(draft.target, writer.write, [memoryview(part)])
        check_length(draft.target, writer.length, length)
        await self._threads.call(draft.target, self._finish, draft, writer)
        return writer.length

    def _open(self, draft: Draft) -> None:
        self._folders.within(os.path.dirname(draft.target), draft.open)

    def _begin(self, draft: Draft, length: int | None) -> Writer:
        self._open(draft)
        writer = Writer(self._files, draft.descriptor, self._fallbacks)
        writer.begin(length)
        return writer

    def _finish(self, draft: Draft, writer: Writer) -> None:
        writer.finish()
        self._files.sync(draft.descriptor)
        self._publish(draft)

    def _publish(self, draft: Draft) -> None:
        folder = os.path.dirname(draft.target)
        try:
            self._folders.within(folder, draft.publish)
        except OSError as error:
            if error.errno not in UNCERTAIN:
                raise
            raise _unknown(error, draft.target) from error
        try:
            self._folders.sync(folder)
        except OSError as error:
            raise _unknown(error, draft.target) from error

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, then the folders that this leaves empty; durable when it returns."""
        paths = [self._folders.path(check_key(key)) for key in keys]
        await self._threads.call(self._root, self._remove, paths)

    async def abort(self, upload: UploadInfo) -> None:
        """Remove a temporary or empty folder that `uploads` named; a temporary of a live put makes that put fail."""
        path = self._folders.path(walk.check_upload(upload.upload).removesuffix("/"))
        if upload.upload.endswith("/"):
            await self._threads.call(self._root, self._folders.clear, [path])
        else:
            await self._threads.call(self._root, self._remove, [path])

    def _remove(self, paths: Sequence[str]) -> None:
        failures: list[StorageError] = []
        for path in paths:
            try:
                self._unlink(path)
            except OSError as error:
                failure = translate(error, path)
                failure.__cause__ = error
                failures.append(failure)
        self._folders.clear({os.path.dirname(path) for path in paths})
        if failures:
            raise failures[0]

    def _unlink(self, path: str) -> None:
        try:
            self._files.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass  # nothing to delete; a root that is a file shows when the removal is made durable
        except (IsADirectoryError, PermissionError):
            # A folder is no object, so there is nothing to delete; macOS and Windows call that "not permitted".
            if not stat.S_ISDIR(self._files.look(path).st_mode):
                raise

    # -- reading ---------------------------------------------------------------------------------

    async def get(
        self, key: str, *, start: int = 0, length: int | None = None, into: Buffer | None = None
    ) -> memoryview:
        """Read a range, see `Storage.get`; a big one in several threads at once."""
        source = Source(self._files, self._folders, self._folders.path(check_key(key)))
        try:
            await self._threads.call(source.path, source.open)
            count = span(key, source.length, start, length, into)
            target = memoryview(_room(count) if into is None else into)
            if count == source.length <= _SMALL:
                await self._read_small(source, target)
            else:
                await self._read_large(source, target, start)
            return target
        finally:
            await self._threads.call(source.path, source.close)

    async def get_each(self, keys: Sequence[str]) -> list[memoryview | StorageError]:
        """Read many small objects whole, see `Storage.get_each`: a change of threads costs more than a read."""
        paths = [self._folders.path(check_key(key)) for key in keys]
        found: list[memoryview | StorageError] = []
        for at in range(0, len(paths), _BATCH):
            found += await self._threads.call(self._root, self._read_each, paths[at : at + _BATCH])
        return found

    def _read_each(self, paths: Sequence[str]) -> list[memoryview | StorageError]:
        return list(map(self._read_whole, paths))

    def _read_whole(self, path: str) -> memoryview | StorageError:
        source = Source(self._files, self._folders, path)
        try:
            source.open()
            target = memoryview(_room(source.length))
            source.fill(target, 0)
        except StorageError as error:
            return error
        except OSError as error:
            return translate(error, path)
        finally:
            source.close()
        return target

    async def _read_small(self, source: Source, target: memoryview) -> None:
        file = stream(self._files, source.descriptor, self._threads.pool)
        got = await self._threads.settled(source.path, file.readinto(target))
        if got != len(target):
            raise source.ended_early()

    async def _read_large(self, source: Source, target: memoryview, start: int) -> None:
        pieces = (
            self._threads.call(source.path, source.fill, target[at : at + CHUNK], start + at)
            for at in range(0, len(target), CHUNK)
        )
        # Exceptions are collected so that no thread writes to `target` any more when the first is raised.
        for outcome in await asyncio.gather(*pieces, return_exceptions=True):
            if outcome is not None:
                raise outcome

    def open(self, key: str) -> Kept:
        """Open an object, see `Opening.open`; the page cache gives again what was read from it."""
        source = Source(self._files, self._folders, self._folders.path(check_key(key)))
        try:
            with translated(source.path):
                source.open()
        except BaseException:
            source.close()
            raise
        return Kept(source)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's length, or None if there is none; a link or folder is none."""
        path = self._folders.path(check_key(key))
        length = await self._threads.call(path, length_of, self._files, self._folders, path)
        return None if length is None else ObjectInfo(key, length)

    async def stored_at(self, key: str) -> float:
        """See `asyncckpt.storage.base.Dated`: over a network that is the server's clock."""
        path = self._folders.path(check_key(key))
        return (await self._threads.call(path, self._files.look, path)).st_mtime

    async def list(self, prefix: str = "", start_after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """Every whole object under `prefix`, sorted, see `Storage.list`; never a temporary or a link."""
        arguments = self._files, self._folders, prefix, start_after
        for info in await self._threads.call(self._root, walk.objects, *arguments):
            yield info

    async def uploads(self, prefix: str = "") -> AsyncIterator[UploadInfo]:
        """Temporaries of puts that never finished, or have not yet, and folders that stand empty."""
        for info in await self._threads.call(self._root, walk.uploads, self._files, self._folders, prefix):
            yield info

    # -- links -----------------------------------------------------------------------------------

    async def link(self, name: str, key: str) -> None:
        """Point the symlink `name` at `key`; where symlinks are impossible, that is a fallback and no error."""
        path = self._folders.path(check_key(name))
        await self._threads.call(path, self._link, path, self._folders.path(check_key(key)))

    def _link(self, path: str, other: str) -> None:
        if length_of(self._files, self._folders, path) is not None:
            raise StorageError(errno.EEXIST, f"{path}: an object has this name, so no link can")
        folder, draft = os.path.dirname(path), temporary(path)
        target = os.path.relpath(other, folder)  # relative: the root may be moved, or mounted elsewhere
        try:
            self._folders.within(folder, lambda: self._files.symlink(target, draft))
        except OSError as error:
            if error.errno not in _NO_SYMLINKS:
                raise
            self._fallbacks.setdefault("symlinks", f"symlinks cannot be made here ({named(error)})")
            return
        self._swap(draft, path)

    def _swap(self, draft: str, path: str) -> None:
        try:
            self._files.replace(draft, path)
        except OSError:
            with suppress(OSError):
                self._files.unlink(draft)
            raise


def _room(count: int) -> bytearray | mmap.mmap:
    # A big bytearray is filled with zeros under the interpreter lock; mapped memory comes without that.
    return bytearray(count) if count <= _SMALL else room(count)


def _unknown(error: OSError, path: str) -> OutcomeUnknown:
    message = f"{path}: {error.strerror} while publishing; read the object to find out whether it is there"
    return OutcomeUnknown(error.errno, message)
