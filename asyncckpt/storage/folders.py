"""Folders: the directories below one root, made when needed, durable when promised, removed when empty."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress

from asyncckpt.errors import StorageDenied, TransientError
from asyncckpt.storage.files import Files
from asyncckpt.storage.reasons import UNSUPPORTED, named


class Folders:
    """The folders of one `LocalStorage`, as absolute paths; methods block and raise OSError."""

    def __init__(self, files: Files, root: str, fallbacks: dict[str, str]) -> None:
        self._files = files
        self.root = root
        self._within = os.path.join(root, "")
        self._fallbacks = fallbacks

    def path(self, key: str) -> str:
        return self._within + (key if os.sep == "/" else key.replace("/", os.sep))

    def check_root(self) -> None:
        """Raise NotADirectoryError or `StorageDenied` if something that is no folder stands in the root's place."""
        self._check(self.root)

    def within(self, folder: str, step: Callable[[], None]) -> None:
        """Do `step`; where `folder` is missing, make it and do the step again.

        Twice, because a concurrent delete may remove the folder we just made while it is still empty.
        """
        for _ in range(2):
            try:
                return step()
            except FileNotFoundError:
                with suppress(FileNotFoundError):
                    self.make(folder)
        try:
            step()
        except FileNotFoundError as error:
            message = f"{folder}: another process keeps removing this folder, or removed a temporary in it"
            raise TransientError(error.errno, message) from error

    def make(self, folder: str) -> list[str]:
        """Make a folder and those above it; returns those that were missing, outermost first."""
        made: list[str] = []
        above = os.path.dirname(folder)
        try:
            self._files.mkdir(folder)
        except FileExistsError:
            self._check(folder)
            return made
        except FileNotFoundError:
            if above == folder:  # a drive that is not there
                raise
            made = self.make(above)
            with suppress(FileExistsError):
                self._files.mkdir(folder)
        if not folder.startswith(os.path.join(self.root, "")):
            # Below the root `sync` does this with every put; nobody would come back for those above.
            self._sync(above)
        return [*made, folder]

    def _check(self, folder: str) -> None:
        """Raise NotADirectoryError for a file in the place of a folder, `StorageDenied` for a link to nothing."""
        try:
            self._files.look(os.path.join(folder, ""))  # the separator at the end asks for a folder
        except FileNotFoundError as error:
            with suppress(FileNotFoundError):  # there is no link either
                if stat.S_ISLNK(self._files.look(folder).st_mode):
                    message = "this symbolic link leads nowhere; make what it leads to, or remove it"
                    raise StorageDenied(error.errno, f"{folder}: {message}") from error

    def sync(self, folder: str) -> None:
        """Make durable the names in `folder` and the names of the folders that lead to it.

        Always up to the root: whoever made a folder above may have died before syncing it.
        """
        while True:
            self._sync(folder)
            if folder == self.root:
                return
            folder = os.path.dirname(folder)

    def clear(self, folders: Iterable[str]) -> None:
        """Remove those folders, and those above, that are empty now; make the removals durable."""
        for stays in {self.prune(folder) for folder in folders}:
            self._sync(stays)

    def prune(self, folder: str) -> str:
        """Remove the folder and those above it as far as they are empty; returns the first that stays."""
        while folder != self.root:
            try:
                self._files.rmdir(folder)
            except FileNotFoundError:
                pass  # removed by another process: what is above it may be empty all the same
            except OSError:
                break
            folder = os.path.dirname(folder)
        return folder

    def _sync(self, folder: str) -> None:
        try:
            self._files.sync_folder(folder)
        except FileNotFoundError:
            pass  # removed together with what we put or deleted in it
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            reason = f"folders cannot be synced here ({named(error)}): a power loss may undo a finished put"
            self._fallbacks.setdefault("directory_sync", reason)
