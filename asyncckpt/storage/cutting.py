"""Cutting: the bytes of an object as blocks of one size, for stores that take them so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

from asyncckpt.storage.base import Buffer, Lasting, Parts


async def blocks(parts: Parts, size: int) -> AsyncGenerator[memoryview, None]:
    """The bytes of `parts` in order, `size` at a time, the last block shorter; none where there are no bytes.

    A block stays as it is at least as long as `parts` that last. Of those, what needs no joining is not copied.
    """
    is_lasting = lasts(parts)
    joined = bytearray()
    async for part in each(parts):
        view = memoryview(part)
        while view:
            if is_lasting and not joined and len(view) >= size:
                yield view[:size]
                view = view[size:]
                continue
            room = size - len(joined)
            joined += view[:room]
            view = view[room:]
            if len(joined) == size:
                yield memoryview(joined)
                joined = bytearray()
    if joined:
        yield memoryview(joined)


def lasts(parts: Parts) -> bool:
    """Whether every one of `parts` stays as it is until the put has ended."""
    return isinstance(parts, Lasting) or not isinstance(parts, AsyncIterable)


def at_most(parts: Parts) -> int | None:
    """How many bytes there are in `parts` at most, as far as that is known."""
    return parts.at_most if isinstance(parts, Lasting) else None


async def each(parts: Parts) -> AsyncIterator[Buffer]:
    """The parts in order, whether or not they are there from the beginning."""
    if isinstance(parts, AsyncIterable):
        async for part in parts:
            yield part
    else:
        for part in parts:
            yield part
