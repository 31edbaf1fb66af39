"""What comes in parts is cut into blocks: parts that last are not copied, and of others every block is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from asyncckpt.storage.base import Lasting, Parts
from asyncckpt.storage.cutting import at_most, blocks

SIZE = 4


async def overwritten(*parts: bytes) -> AsyncIterator[memoryview]:
    room = memoryview(bytearray(8))
    for part in parts:
        room[: len(part)] = part
        yield room[: len(part)]


async def one_by_one(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def cut(parts: Parts) -> list[memoryview]:
    async def all_of_it() -> list[memoryview]:
        return [block async for block in blocks(parts, SIZE)]

    return asyncio.run(all_of_it())


def test_what_is_overwritten_when_the_next_is_asked_for_is_copied_before() -> None:
    assert cut(overwritten(b"abcdefgh", b"ijk", b"lmnop")) == [b"abcd", b"efgh", b"ijkl", b"mnop"]


def test_what_lasts_is_copied_only_where_it_must_be_joined() -> None:
    first, second, third = b"abcdefgh", b"ij", b"klmnopq"
    for parts in (Lasting(one_by_one(first, second, third)), [first, second, third]):
        found = cut(parts)
        assert found == [b"abcd", b"efgh", b"ijkl", b"mnop", b"q"]
        assert [block.obj is first for block in found] == [True, True, False, False, False]
        assert found[3].obj is third


def test_how_much_there_is_at_most_is_known_of_what_says_so() -> None:
    assert at_most(Lasting(one_by_one(b"abc"), 100)) == 100
    assert at_most(Lasting(one_by_one(b"abc"))) is at_most(one_by_one(b"abc")) is at_most([b"abc"]) is None
