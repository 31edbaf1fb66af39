"""Copying: one checkpoint from one tier to another, whole: every pack that its manifest names, then the manifest.

All under the names that they have, so that the manifest is the same object everywhere. What a checkpoint shares with
others comes along, whatever the other tier has of those. Every byte that the checkpoint holds is compared with its
digest on the way, and a pack that is not sound never appears there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.damage import readable
from asyncckpt.errors import CheckpointCorruptError, StorageError
from asyncckpt.fetching.progress import Progress
from asyncckpt.format.contents import Contents, Pack
from asyncckpt.format.digest import digesting
from asyncckpt.format.record import Checkpoint, ObjectRef
from asyncckpt.format.sealed import is_sealed
from asyncckpt.storage.base import Storage
from asyncckpt.worker.pace import Pace


class SourceFailed(StorageError):
    """The tier that is copied from cannot be read, which says nothing about the one that is copied to."""


PIECE = 16 << 20
"""Bytes read at a time. Two pieces are held at most: one is read while the one before it is written."""


@dataclass(slots=True)
class Copying:
    """From `source` to `target`. `brought` are the keys that were put there, or found there, so far.

    Between two pieces of work there is rest, as `pace` says.
    """

    source: Catalog
    target: Storage
    pace: Pace
    brought: set[str] = field(default_factory=set)
    progress: Progress | None = None
    """Is told of the bytes of packs."""
    written: int = 0
    """Bytes that were put."""
    rested: float = 0.0
    """Seconds for which nothing was done."""

    async def copy(self, checkpoint: Checkpoint, listed: Container[str]) -> None:
        """Everything of `checkpoint`, durable; `listed` are the packs that the target's checkpoints name.

        It takes no key. Raises `CheckpointCorruptError` where the source is not sound, or has lost something meanwhile,
        `SourceFailed` where it cannot be read, and the `StorageError` of the target.
        """
        with _source():
            contents = (await self.source.shown(checkpoint)).contents
        if self.progress is not None:
            self.progress.expect(sum(pack.stored for pack in contents.packs))
        for number, pack in enumerate(contents.packs):
            if pack.key in listed or await self._is_there(pack):
                self._passed(pack.stored)
            else:
                await self._put(pack, parts(contents, number))
                self.written += pack.stored
            self.brought.add(pack.key)
        await self._put_manifest(checkpoint.manifest)

    def _passed(self, nbytes: int) -> None:
        if self.progress is not None:
            self.progress.add(nbytes)

    async def _is_there(self, pack: Pack) -> bool:
        """Whether an earlier try has put it: puts are whole or nothing, and no name is used twice."""
        found = await self.target.head(pack.key)
        return found is not None and found.length == pack.stored

    async def _put(self, pack: Pack, sound: Sequence[Part]) -> None:
        await self.target.put(pack.key, self._pieces(pack, sound), length=pack.stored)

    async def _pieces(self, pack: Pack, sound: Sequence[Part]) -> AsyncIterator[memoryview]:
        check = Check(f"{self.source.storage.url}/{pack.key}", sound)
        coming = asyncio.ensure_future(self._read(pack, 0))
        try:
            for start in range(0, pack.stored, PIECE):
                began = time.monotonic()
                piece = await coming
                coming = asyncio.ensure_future(self._read(pack, start + PIECE))
                await asyncio.to_thread(check.take, piece)
                yield piece
                self._passed(len(piece))
                if self.pace.share < 1:  # a thread is not asked for nothing
                    worked_until = time.monotonic()
                    await asyncio.to_thread(self.pace.rest, worked_until - began)
                    self.rested += time.monotonic() - worked_until
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _read(self, pack: Pack, start: int) -> memoryview:
        """The piece that begins at `start`; nothing past the end."""
        length = min(PIECE, pack.stored - start)
        if length <= 0:
            return memoryview(b"")
        with _source(), readable(f"{self.source.storage.url}/{pack.key}"):
            return await self.source.storage.get(pack.key, start=start, length=length)

    async def _put_manifest(self, ref: ObjectRef) -> None:
        what = f"{self.source.storage.url}/{ref.key}"
        with _source(), readable(what):
            data = await self.source.storage.get(ref.key)
        if not is_sealed(data, ref.digest):  # it is read again, and may have been damaged since
            raise CheckpointCorruptError(f"{what} is not the manifest that was committed")
        await self.target.put(ref.key, [data], length=len(data))
        self.brought.add(ref.key)
        self.written += len(data)


@contextmanager
def _source() -> Iterator[None]:
    """Around what is asked of the source."""
    try:
        yield
    except StorageError as error:
        raise SourceFailed(str(error)) from error


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``[start, end)`` of a pack, and their digest."""

    start: int
    end: int
    digest: str


def parts(contents: Contents, number: int) -> list[Part]:
    """What is known of the stored bytes of pack `number`, in file order: its header, and what `contents` hold of it;
    or every frame.
    """
    pack = contents.packs[number]
    if (frames := pack.frames) is not None:
        return [Part(frames.start(n), frames.ends[n], said) for n, (_, said) in enumerate(frames.stored)]
    extents = (
        extent
        for entry in contents.tensors.values()
        for box in entry.boxes
        for extent in box.extents
        if extent.pack == number
    )
    found = {Part(extent.offset, extent.offset + extent.length, extent.digest) for extent in extents if extent.length}
    return sorted({Part(0, pack.header, pack.digest), *found}, key=lambda part: part.start)


class Check:
    """Compares the parts of `what` with their digests as its bytes come by; what lies between them is nobody's."""

    def __init__(self, what: str, sound: Sequence[Part]) -> None:
        self._what = what
        self._parts = sound
        self._number = 0
        self._at = 0
        self._hashed = digesting()

    def take(self, piece: memoryview) -> None:
        """The next bytes; raises `CheckpointCorruptError` once a part is not what it was."""
        begin, self._at = self._at, self._at + len(piece)
        while self._number < len(self._parts) and (part := self._parts[self._number]).start < self._at:
            self._hashed.update(piece[max(part.start - begin, 0) : part.end - begin])
            if part.end > self._at:
                return
            if self._hashed.hexdigest() != part.digest:
                raise CheckpointCorruptError(f"{self._what} does not match its digest at byte {part.start}")
            self._number, self._hashed = self._number + 1, digesting()
