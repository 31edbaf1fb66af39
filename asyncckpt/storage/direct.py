"""Direct writing: the bytes of one file, past the page cache where alignment and file system allow it.

A part that begins and ends on a block boundary, in the file and in memory, goes to the disk straight from the
caller's buffer. The odd end of the last part is written as one padded block and cut off again. Anything else
turns this file into an ordinary, buffered one from there on.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Iterator, MutableMapping

from asyncckpt.storage.base import Buffer
from asyncckpt.storage.files import Files
from asyncckpt.storage.reasons import UNSUPPORTED, named

BLOCK = 4096
CHUNK = 16 << 20


def groups(parts: Iterable[Buffer]) -> Iterator[list[memoryview]]:
    """The bytes of `parts` in order, about ``CHUNK`` at a time: one hop to a thread for each group."""
    group: list[memoryview] = []
    size = 0
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), CHUNK):
            group.append(view[at : at + CHUNK])
            size += len(group[-1])
            if size >= CHUNK:
                yield group
                group, size = [], 0
    if group:
        yield group


class Writer:
    """Writes one file from its beginning; methods block and raise OSError.

    `write` takes bytes in order and keeps no reference to them. `finish` completes the file's length.
    What turns out to be impossible is recorded in `fallbacks`, which the writers of one storage share.
    """

    def __init__(self, files: Files, descriptor: int, fallbacks: MutableMapping[str, str]) -> None:
        self._files = files
        self._descriptor = descriptor
        self._fallbacks = fallbacks
        self._direct = False
        self._at = 0
        self._tail = b""
        self.length = 0

    def begin(self, length: int | None) -> None:
        """Go direct if possible, and reserve `length` bytes, so that a full disk says so now."""
        if "direct_io" not in self._fallbacks:
            self._go_direct()
        if length and "preallocation" not in self._fallbacks:
            self._reserve(length)

    def write(self, parts: Iterable[memoryview]) -> None:
        for part in parts:
            if part:
                self._take(part)

    def finish(self) -> None:
        tail, self._tail = self._tail, b""
        if tail:
            block = mmap.mmap(-1, BLOCK)
            block[: len(tail)] = tail
            self._put(memoryview(block))
            self._files.truncate(self._descriptor, self.length)

    def _take(self, part: memoryview) -> None:
        if self._direct and (self._tail or address(part) % BLOCK):
            self._leave_direct()
        whole = len(part) - len(part) % BLOCK if self._direct else len(part)
        self._put(part[:whole])
        if self._direct:
            self._tail = bytes(part[whole:])  # a copy: the caller may fill its buffer anew before `finish`
        else:
            self._put(part[whole:])
        self.length += len(part)

    def _put(self, data: memoryview) -> None:
        while data:
            try:
                taken = self._files.write(self._descriptor, data, self._at)
            except OSError as error:
                if not self._is_refusal(error):
                    raise
                self._refuse(error)
                continue
            if not taken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._at += taken
            data = data[taken:]
            if self._direct and taken % BLOCK:
                self._leave_direct()

    def _go_direct(self) -> None:
        try:
            self._files.direct(self._descriptor, True)
            self._direct = True
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._record_buffered(error)

    def _reserve(self, length: int) -> None:
        try:
            self._files.reserve(self._descriptor, length)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            reason = f"space cannot be reserved here ({named(error)}): a full disk is noticed late"
            self._fallbacks.setdefault("preallocation", reason)

    def _is_refusal(self, error: OSError) -> bool:
        return self._direct and self._at == 0 and error.errno == errno.EINVAL

    def _refuse(self, error: OSError) -> None:
        self._record_buffered(error)
        self._leave_direct()

    def _record_buffered(self, error: OSError) -> None:
        reason = f"direct I/O refused by the file system ({named(error)}): writes go through the page cache"
        self._fallbacks.setdefault("direct_io", reason)

    def _leave_direct(self) -> None:
        self._files.direct(self._descriptor, False)
        self._direct = False
        tail, self._tail = self._tail, b""
        self._put(memoryview(tail))


class _View(ctypes.Structure):
    """CPython's Py_buffer: the only way to the address of a read-only buffer."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def address(part: memoryview) -> int:
    """Where in memory the bytes of `part` are."""
    view = _View()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(part), ctypes.byref(view), 0)
    try:
        return int(view.buf or 0)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
