"""Writing past the page cache: what is direct, what falls back, and that no byte is copied or lost."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncckpt.errors import StorageDenied
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.direct import BLOCK, CHUNK, Writer, address, groups
from asyncckpt.storage.files import Files
from asyncckpt.testing.files import FailingFiles
from asyncckpt.testing.store import aligned, use

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="O_DIRECT is Linux")


class Watching(Files):
    """Notes where in memory each write comes from, how much of it is reported as taken, and if it is direct."""

    def __init__(self, taken: Callable[[int], int] = lambda asked: asked) -> None:
        super().__init__()
        self.writes: list[tuple[int, int, bool]] = []
        self._taken = taken

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        taken = self._taken(super().write(descriptor, data, offset))
        self.writes.append((address(data), taken, direct))
        return taken


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    number = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    yield number
    os.close(number)


def written(
    files: Files, descriptor: int, parts: list[memoryview], length: int | None = None
) -> tuple[dict[str, str], bytes]:
    """Write `parts` as one file; its content must be theirs. Returns the fallbacks and the content."""
    fallbacks: dict[str, str] = {}
    writer = Writer(files, descriptor, fallbacks)
    writer.begin(length)
    for part in parts:
        writer.write([part])
    writer.finish()
    with open(f"/proc/self/fd/{descriptor}", "rb") as file:
        content = file.read()
    assert content == b"".join(parts)
    assert writer.length == len(content)
    return fallbacks, content


def test_aligned_parts_go_to_the_disk_from_where_they_are(descriptor: int) -> None:
    parts = aligned([3 * BLOCK, 40 * BLOCK, 2 * BLOCK + 5])
    files = Watching()
    assert written(files, descriptor, parts)[0] == {}
    assert files.writes[:3] == [
        (address(parts[0]), 3 * BLOCK, True),
        (address(parts[1]), 40 * BLOCK, True),
        (address(parts[2]), 2 * BLOCK, True),
    ]
    (tail,) = files.writes[3:]
    assert tail[1:] == (BLOCK, True)


@pytest.mark.parametrize("size", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 9 * BLOCK, 9 * BLOCK + 4000])
@pytest.mark.parametrize("reserved", [True, False])
def test_the_length_is_exact(descriptor: int, size: int, reserved: bool) -> None:
    files = Watching()
    written(files, descriptor, aligned([size]), size if reserved else None)
    assert all(direct for _, _, direct in files.writes)


def test_an_odd_part_in_between_makes_the_rest_buffered(descriptor: int) -> None:
    parts = aligned([2 * BLOCK, BLOCK + 7, 3 * BLOCK, 9])
    files = Watching()
    assert written(files, descriptor, parts)[0] == {}
    assert [(length, direct) for _, length, direct in files.writes] == [
        (2 * BLOCK, True),
        (BLOCK, True),
        (7, False),
        (3 * BLOCK, False),
        (9, False),
    ]


def test_a_part_at_an_odd_address_makes_the_rest_buffered(descriptor: int) -> None:
    whole = aligned([10 * BLOCK])[0]
    files = Watching()
    assert written(files, descriptor, [whole[:BLOCK], whole[8 : 8 + BLOCK], whole[:BLOCK]])[0] == {}
    assert [direct for _, _, direct in files.writes] == [True, False, False]


@pytest.mark.parametrize("taken", [1000, BLOCK, 3 * BLOCK - 1])
def test_short_writes_are_continued(descriptor: int, taken: int) -> None:
    files = Watching(lambda asked: min(asked, taken) if asked != BLOCK else asked)
    fallbacks, _ = written(files, descriptor, aligned([7 * BLOCK + 5, 0]))
    assert fallbacks == {}
    assert files.writes[0][2]
    assert len(files.writes) > 2
    assert files.writes[-1][2] == (taken == BLOCK)


@pytest.mark.parametrize("taken", [5, 100, 3000])
def test_a_short_write_of_the_padded_end_is_continued(descriptor: int, taken: int) -> None:
    files = Watching(lambda asked: min(asked, taken))
    written(files, descriptor, aligned([50]))


def test_a_write_that_takes_nothing_is_an_error(descriptor: int) -> None:
    writer = Writer(Watching(lambda _: 0), descriptor, {})
    writer.begin(None)
    with pytest.raises(OSError, match="Input/output error"):
        writer.write(aligned([BLOCK]))


def test_a_refusal_at_the_first_write_is_a_fallback(descriptor: int) -> None:
    files = FailingFiles("write", errno.EINVAL)
    fallbacks, _ = written(files, descriptor, aligned([5 * BLOCK, 77]))
    assert fallbacks == {
        "direct_io": "direct I/O refused by the file system (EINVAL): writes go through the page cache"
    }


@pytest.mark.parametrize("size", [77, BLOCK])
def test_a_refusal_of_the_only_block_is_a_fallback(descriptor: int, size: int) -> None:
    fallbacks, _ = written(FailingFiles("write", errno.EINVAL), descriptor, aligned([size]))
    assert list(fallbacks) == ["direct_io"]


def test_refused_once_it_is_not_tried_again(descriptor: int) -> None:
    files = FailingFiles("direct", errno.EINVAL, times=99)
    fallbacks: dict[str, str] = {}
    for _ in range(3):
        writer = Writer(files, descriptor, fallbacks)
        writer.begin(None)
        writer.write(aligned([5000]))
        writer.finish()
    assert files.matched == 1


@pytest.mark.parametrize(
    ("name", "number", "nth"), [("write", errno.EINVAL, 2), ("write", errno.EIO, 1), ("direct", 5, 1)]
)
def test_other_errors_are_errors(descriptor: int, name: str, number: int, nth: int) -> None:
    files = FailingFiles(name, number, nth=nth)
    with pytest.raises(OSError) as caught:  # noqa: PT011  the errno is asserted below
        written(files, descriptor, aligned([BLOCK, BLOCK]))
    assert caught.value.errno == number
    assert files.matched == nth


def test_space_is_reserved_before_anything_is_written(tmp_path: Path) -> None:
    class Full(Watching):
        def reserve(self, descriptor: int, length: int) -> None:
            assert length == 5_000_000
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files = Full()
    with pytest.raises(StorageDenied, match="no space left"):
        use(LocalStorage(tmp_path, files=files), lambda store: store.put("a", [bytes(5_000_000)]))
    assert files.writes == []
    assert os.listdir(tmp_path) == []


def test_the_store_writes_big_objects_without_a_copy(tmp_path: Path) -> None:
    files = Watching()
    part = aligned([CHUNK + 3 * BLOCK + 5])[0].toreadonly()
    use(LocalStorage(tmp_path, files=files), lambda store: store.put("a", [part]))
    assert files.writes[:2] == [
        (address(part), CHUNK, True),
        (address(part) + CHUNK, 3 * BLOCK, True),
    ]
    assert (tmp_path / "a").read_bytes() == part


def test_groups_keep_the_order_and_the_size() -> None:
    parts = aligned([CHUNK * 2 + 5, 3, 0, 7, CHUNK, 9])
    grouped = list(groups(parts))
    assert b"".join(piece for group in grouped for piece in group) == b"".join(parts)
    assert all(sum(map(len, group)) <= 2 * CHUNK for group in grouped)
    assert all(len(piece) <= CHUNK for group in grouped for piece in group)
    assert len(list(groups([b"x"] * 1000))) == 1
    assert list(groups([])) == []


def test_addresses() -> None:
    page = memoryview(mmap.mmap(-1, 2 * BLOCK))
    assert address(page) % BLOCK == 0
    assert address(page[7:]) == address(page) + 7
    assert address(page.toreadonly()) == address(page)
    constant = bytes(100)
    assert address(memoryview(constant)[3:]) == address(memoryview(constant)) + 3
