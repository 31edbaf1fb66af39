"""Recording: the effects that a storage has on the disk, in order, while they really happen."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TypeAlias

from asyncckpt.storage.files import Files


@dataclass(frozen=True, slots=True)
class SymbolicLink:
    """A symlink and what it points at."""

    target: str


Node: TypeAlias = int | SymbolicLink | None
"""What a name stands for: a file by its number in the recording, a symlink, or (None) a folder."""


@dataclass(frozen=True, slots=True)
class NameEffect:
    """A change of names in one folder, applied as one."""

    text: str
    folder: str
    gone: str | None
    came: tuple[str, Node] | None


@dataclass(frozen=True, slots=True)
class DataEffect:
    """A change of one file's bytes: `data` at `offset`, with zeros up to there, or (None) its end at `offset`."""

    text: str
    file: int
    offset: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class SyncEffect:
    """One file (its number) or one folder (its path) was synced."""

    text: str
    what: int | str


@dataclass(frozen=True, slots=True)
class Mark:
    """The test's own milestone."""

    text: str


Effect: TypeAlias = NameEffect | DataEffect | SyncEffect | Mark


class RecordingFiles(Files):
    """Does everything for real, and records what it did below `base`, in order.

    Only what really reaches a method here is recorded: a subclass whose ``sync`` does nothing leaves no trace of
    a sync, and `crash_states` loses the bytes.
    """

    def __init__(self, base: str | os.PathLike[str]) -> None:
        super().__init__()
        self.effects: list[Effect] = []
        self.names: dict[str, Node] = {}
        self.contents: dict[int, bytes] = {}
        self._base = os.path.abspath(base)
        self._lock = threading.RLock()
        self._files = 0
        self._opened: dict[int, int] = {}
        self._snapshot()
        self._now = dict(self.names)

    def mark(self, text: str) -> None:
        """Note that the test got this far: states from here on have `text` in `reached`."""
        with self._lock:
            self.effects.append(Mark(text))

    def create(self, path: str) -> int:
        with self._lock:
            descriptor = super().create(path)
            self._name("create", path, self._number(descriptor))
            return descriptor

    def create_unnamed(self, folder: str) -> int:
        with self._lock:
            descriptor = super().create_unnamed(folder)
            self._number(descriptor)
            return descriptor

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        with self._lock:
            taken = super().write(descriptor, data, offset)
            self._data("write", descriptor, offset, bytes(data[:taken]))
            return taken

    def truncate(self, descriptor: int, length: int) -> None:
        with self._lock:
            super().truncate(descriptor, length)
            self._data("truncate", descriptor, length, None)

    def reserve(self, descriptor: int, length: int) -> None:
        with self._lock:
            super().reserve(descriptor, length)
            self._data("reserve", descriptor, length, b"")

    def sync(self, descriptor: int) -> None:
        with self._lock:
            super().sync(descriptor)
            number = self._opened[descriptor]
            self.effects.append(SyncEffect(f"sync file {number}", number))

    def sync_folder(self, path: str) -> None:
        with self._lock:
            super().sync_folder(path)
            self.effects.append(SyncEffect(f"sync folder {self._short(path)}", self._short(path)))

    def link(self, source: str, target: str) -> None:
        with self._lock:
            super().link(source, target)
            self._name("link", target, self._now[self._short(source)])

    def link_unnamed(self, descriptor: int, target: str) -> None:
        with self._lock:
            super().link_unnamed(descriptor, target)
            self._name("link", target, self._opened[descriptor])

    def replace(self, source: str, target: str) -> None:
        with self._lock:
            super().replace(source, target)
            self._name("replace", target, self._now.pop(self._short(source)), gone=source)

    def rename(self, source: str, target: str) -> None:
        with self._lock:
            super().rename(source, target)
            self._name("rename", target, self._now.pop(self._short(source)), gone=source)

    def symlink(self, target: str, path: str) -> None:
        with self._lock:
            super().symlink(target, path)
            self._name("symlink", path, SymbolicLink(target))

    def mkdir(self, path: str) -> None:
        with self._lock:
            super().mkdir(path)
            self._name("mkdir", path, None)

    def unlink(self, path: str) -> None:
        with self._lock:
            super().unlink(path)
            self._remove("unlink", path)

    def rmdir(self, path: str) -> None:
        with self._lock:
            super().rmdir(path)
            self._remove("rmdir", path)

    def _number(self, descriptor: int) -> int:
        self._files += 1
        self._opened[descriptor] = self._files
        return self._files

    def _name(self, verb: str, path: str, node: Node, gone: str | None = None) -> None:
        short = self._short(path)
        self._now[short] = node
        source = None if gone is None else self._short(gone)
        text = f"{verb} {short}" if source is None else f"{verb} {source} -> {short}"
        self.effects.append(NameEffect(text, os.path.dirname(short), source, (short, node)))

    def _remove(self, verb: str, path: str) -> None:
        short = self._short(path)
        self._now.pop(short, None)
        self.effects.append(NameEffect(f"{verb} {short}", os.path.dirname(short), short, None))

    def _data(self, verb: str, descriptor: int, offset: int, data: bytes | None) -> None:
        number = self._opened[descriptor]
        self.effects.append(DataEffect(f"{verb} file {number}", number, offset, data))

    def _short(self, path: str) -> str:
        short = os.path.relpath(path, self._base).replace(os.sep, "/")
        return "" if short == "." else short

    def _snapshot(self) -> None:
        """Take in what was there before, as durable."""
        for folder, folders, files in os.walk(self._base):
            for name in [*folders, *files]:
                path = os.path.join(folder, name)
                self.names[self._short(path)] = self._found(path)

    def _found(self, path: str) -> Node:
        if os.path.islink(path):
            return SymbolicLink(os.readlink(path))
        if os.path.isdir(path):
            return None
        self._files += 1
        with open(path, "rb") as file:
            self.contents[self._files] = file.read()
        return self._files
