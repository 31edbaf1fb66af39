"""File systems that can less than the real one, or fail on cue: subclasses of `Files` for `LocalStorage`."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Any, NoReturn

from asyncckpt.storage.files import Files

CALLS = frozenset(name for name, value in vars(Files).items() if callable(value) and not name.startswith("_"))
"""The names of everything that can be called on `Files`."""


def _refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


class Counting(Files):
    """Knows how many files are open."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    def open(self, path: str) -> int:
        descriptor = super().open(path)
        self.opened += 1
        return descriptor

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self.opened -= 1


class WithoutDirect(Files):
    """Refuses O_DIRECT when it is turned on."""

    def direct(self, descriptor: int, on: bool) -> None:
        if on:
            _refuse(errno.EINVAL)
        super().direct(descriptor, on)


class WithoutPreallocation(Files):
    """Cannot reserve space."""

    def reserve(self, descriptor: int, length: int) -> None:
        _refuse(errno.EOPNOTSUPP)


class WithoutTmpfile(Files):
    """Has no unnamed files."""

    def create_unnamed(self, folder: str) -> int:
        _refuse(errno.EOPNOTSUPP)


class WithoutLinks(WithoutTmpfile):
    """Has no hard links, and so no use for unnamed files: exFAT, SMB, some FUSE file systems."""

    def link(self, source: str, target: str) -> None:
        _refuse(errno.EPERM)

    def link_unnamed(self, descriptor: int, target: str) -> None:
        _refuse(errno.EPERM)


class WithoutNoReplace(Files):
    """Cannot rename without replacing: NFS."""

    def rename(self, source: str, target: str) -> None:
        _refuse(errno.EINVAL)


class WithoutSymlinks(Files):
    """Has no symlinks."""

    def symlink(self, target: str, path: str) -> None:
        _refuse(errno.EPERM)


class WithoutDirectorySync(Files):
    """Cannot sync a folder: Windows."""

    def sync_folder(self, path: str) -> None:
        _refuse(errno.EINVAL)


class WithoutAnything(
    WithoutDirect, WithoutPreallocation, WithoutLinks, WithoutNoReplace, WithoutSymlinks, WithoutDirectorySync
):
    """Lacks all of these; creates claim their name with an empty file."""


class WithoutExclusiveCreate(WithoutLinks, WithoutNoReplace):
    """Ignores O_EXCL too, as an object store without conditional writes would: no create is exclusive."""

    def create(self, path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)


@dataclass(frozen=True, slots=True)
class Call:
    """One call about to be made: its name, the paths that it is about, and how to make it."""

    name: str
    paths: tuple[str, ...]
    arguments: tuple[Any, ...]
    make: Callable[[], Any]


class WatchedFiles(Files):
    """Passes every call through `around`, which a subclass overrides to record, delay or fail it."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[int, str] = {}

    def around(self, call: Call) -> Any:
        """Make the call, and whatever else is to happen."""
        return call.make()

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        return partial(self._pass, name, attribute) if name in CALLS else attribute

    def _pass(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        paths = tuple(value for value in arguments if isinstance(value, str))
        if arguments and isinstance(arguments[0], int):
            paths = (self._opened.get(arguments[0], ""), *paths)
        result = self.around(Call(name, paths, arguments, partial(function, *arguments)))
        if name in ("open", "create", "create_unnamed"):
            self._opened[result] = paths[0]
        return result


class FailingFiles(WatchedFiles):
    """Raises errno `number` at the `nth` matching call, and at those after it for `times` calls in all.

    A call matches by its name and, if any of its paths fits, `pattern` (as in the shell, ``*`` also across
    ``/``). With `applied` the call is carried out all the same: a reply that got lost.
    """

    def __init__(
        self,
        name: str,
        number: int,
        *,
        pattern: str = "*",
        nth: int = 1,
        times: int = 1,
        applied: bool = False,
    ) -> None:
        super().__init__()
        if name not in CALLS:
            raise ValueError(f"not a call of Files: {name}")
        self._name, self._number, self._pattern = name, number, pattern
        self._failing = range(nth, nth + times)
        self._applied = applied
        self._lock = threading.Lock()
        self.matched = 0

    def around(self, call: Call) -> Any:
        if not self._is_due(call):
            return call.make()
        if self._applied:
            call.make()
        raise OSError(self._number, os.strerror(self._number), *call.paths[:1])

    def _is_due(self, call: Call) -> bool:
        if call.name != self._name or not any(fnmatch(path, self._pattern) for path in call.paths):
            return False
        with self._lock:
            self.matched += 1
            return self.matched in self._failing
