"""Memory that a worker process shares: where it lies, and what becomes of its pages."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asyncckpt.worker import memory
from asyncckpt.worker.memory import mapped, shared

if sys.platform != "linux":
    pytest.skip("memfd is Linux's", allow_module_level=True)

HUGE = 2 << 20


@pytest.fixture(autouse=True)
def two_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as huge pages are nearly everywhere; some machines have none, or larger ones."""
    monkeypatch.setattr(memory, "_huge_page", lambda: HUGE)


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def mappings(descriptor: int) -> list[tuple[str, str, int]]:
    """Where the memory behind `descriptor` is mapped in this process: first address, protection, offset."""
    inode = os.fstat(descriptor).st_ino
    found = re.findall(r"(?m)^(\w+)-\w+ (\S+) (\w+) \S+ (\d+) ", Path("/proc/self/maps").read_text())
    return [(first, protection, int(offset, 16)) for first, protection, offset, number in found if int(number) == inode]


def huge_bytes(at: int) -> int:
    """Bytes of the mapping that begins at `at` which lie in huge pages."""
    block = Path("/proc/self/smaps").read_text().split(f"\n{at:x}-")[1]
    found = re.search(r"ShmemPmdMapped: +(\d+) kB", block)
    assert found is not None
    return int(found[1]) << 10


def collapsed(mapping: memory.Mapping, start: int, end: int) -> bool:
    """Whether this machine had huge pages to give."""
    try:
        mapping.collapse(start, end)
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.ENOMEM, errno.EINVAL}:
            raise
        return False
    return True


@pytest.mark.parametrize("size", [HUGE, HUGE + 4096, 5 * HUGE + 12288])
def test_P3_what_has_room_for_a_huge_page_begins_at_the_border_of_one(size: int) -> None:
    for _ in range(3):
        descriptor, mapping = mapped(size)
        assert descriptor is not None
        assert (mapping.huge_page, len(mapping.view), address(mapping.view) % HUGE) == (HUGE, size, 0)
        assert (f"{address(mapping.view):x}", "rw-s", 0) in mappings(descriptor.fileno()), "its file begins there too"
        assert os.pwrite(descriptor.fileno(), b"first", 0) == 5
        assert bytes(mapping.view[:5]) == b"first"
        mapping.view[-1] = 7
        assert os.pread(descriptor.fileno(), 2, size - 1)[0] == 7


def test_P3_what_is_smaller_takes_not_a_page_more() -> None:
    descriptor, mapping = mapped(HUGE - 4096)
    assert descriptor is not None
    assert (mapping.huge_page, os.fstat(descriptor.fileno()).st_size) == (0, HUGE - 4096)
    mapping.view[-1] = 7
    assert len(mappings(descriptor.fileno())) == 1


def test_P3_the_room_for_a_border_costs_no_memory() -> None:
    descriptor, mapping = mapped(3 * HUGE)
    assert descriptor is not None
    mapping.view[:] = bytes(3 * HUGE)
    assert os.fstat(descriptor.fileno()).st_blocks * 512 == 3 * HUGE


@pytest.mark.parametrize("size", [4096, 3 * HUGE])
def test_P3_whoever_shares_it_sees_it_and_cannot_write_it(size: int) -> None:
    descriptor, mapping = mapped(size)
    assert descriptor is not None
    seen = shared(descriptor, size, is_writable=False)
    assert seen.view.readonly
    mapping.view[size // 2] = 9
    assert seen.view[size // 2] == 9
    protections = [protection for _, protection, offset in mappings(descriptor.fileno()) if offset == 0]
    assert "r--s" in protections


@pytest.mark.parametrize("size", [4096, 3 * HUGE])
def test_P3_nothing_stays_mapped_once_the_view_is_gone(size: int) -> None:
    descriptor, mapping = mapped(size)
    assert descriptor is not None
    view = mapping.view[1:]
    del mapping
    view[0] = 1  # still mapped
    assert mappings(descriptor.fileno())
    del view
    assert mappings(descriptor.fileno()) == []


def test_P3_a_forked_child_has_none_of_it() -> None:
    script = """
import os
from asyncckpt.worker.memory import mapped, shared
descriptor, mapping = mapped(10 << 20)
there = lambda: "asyncckpt-arena" in open("/proc/self/maps").read()
assert there()
if os.fork() == 0:
    os._exit(there())
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_P3_pages_become_huge_and_keep_their_bytes_while_others_write_them() -> None:
    _, mapping = mapped(16 * HUGE)
    mapping.view[:] = bytes(range(256)) * (16 * HUGE // 256)
    begun, over = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number = (number + 1) % 256
            mapping.view[HUGE : HUGE + 8] = mapping.view[-8:] = bytes([number]) * 8
            begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(60)
        collapsed(mapping, 0, 16 * HUGE)
    finally:
        over.set()
        writer.join()
    assert bytes(mapping.view[:HUGE]) == bytes(range(256)) * (HUGE // 256)
    assert bytes(mapping.view[HUGE + 8 : -8]) == (bytes(range(256)) * (15 * HUGE // 256))[8:-8]
    assert bytes(mapping.view[HUGE : HUGE + 8]) == bytes(mapping.view[-8:]), "a write was lost"


def test_P3_a_kernel_that_makes_huge_pages_makes_them_of_all_that_lies_whole_between() -> None:
    descriptor, mapping = mapped(6 * HUGE)
    assert descriptor is not None
    at = address(mapping.view)
    whole = collapsed(mapping, 4096, 4 * HUGE + 4096)  # the second, third and fourth lie whole there
    assert (huge_bytes(at) == 3 * HUGE) == whole
    assert os.fstat(descriptor.fileno()).st_blocks * 512 <= 3 * HUGE + 4096, "what was not asked for was touched"


def test_P3_the_kernel_is_not_asked_for_what_holds_no_whole_huge_page() -> None:
    descriptor, mapping = mapped(2 * HUGE)
    assert descriptor is not None
    mapping.collapse(4096, 2 * HUGE - 4096)
    assert os.fstat(descriptor.fileno()).st_blocks == 0


def test_P3_what_the_kernel_refuses_is_an_error_with_its_number() -> None:
    _, mapping = mapped(4096)
    with pytest.raises(OSError, match="Invalid argument") as raised:
        mapping.advise(12345, 0, 4096)
    assert raised.value.errno == errno.EINVAL


def test_P3_a_kernel_without_huge_pages_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    for content, expected in ((None, 0), ("", 0), ("2097152\n", HUGE)):
        known = tmp_path / "hpage_pmd_size"
        if content is not None:
            known.write_text(content)
        monkeypatch.setattr(memory, "_HUGE_PAGE", known)
        memory._huge_page.cache_clear()
        assert memory._huge_page() == expected
    memory._huge_page.cache_clear()
