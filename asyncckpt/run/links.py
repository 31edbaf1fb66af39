"""Links: other names for checkpoints, as other systems call them, for scripts that look for those.

They are relative symbolic links in the root, made anew after each commit, and gone with their checkpoint: none ever
leads nowhere for longer than that takes. Nothing in this package reads them, but for what a configuration names.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import AsyncCkptError, CheckpointNotFoundError
from asyncckpt.events import HOME, Amended, Durable, Event, Pruned, Resumed
from asyncckpt.format.record import Checkpoint
from asyncckpt.run.files import Files, blocking
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage, check_key

logger = logging.getLogger("asyncckpt")


def check_names(names: Collection[str]) -> tuple[str, ...]:
    """`names`, if each says which checkpoint it is for and can be a key. Raises `ValueError`."""
    if isinstance(names, str):
        raise ValueError(f"compat_names={names!r}: give a list of names")
    for name in names:
        filled = name.replace("{step}", "1").replace("{epoch}", "1")
        if "/" in name or "{" in filled or check_key(filled) in ("latest", "best"):
            raise ValueError(f"compat_names: {name!r} is taken, or is no name with {{step}} and {{epoch}}")
        if "{step}" not in name and "latest" not in name and "best" not in name:
            raise ValueError(f"compat_names: {name!r} says neither latest nor best, and has no {{step}}")
    return tuple(names)


class Links:
    """Keeps the links of those `names` right: a name with ``{step}`` (and ``{epoch}``) is one for each checkpoint, a
    name that has ``latest`` or ``best`` in it one for that.
    """

    def __init__(self, files: Files | None, names: Collection[str]) -> None:
        self._files = files
        self._names = names
        self._is_told = False
        if names and files is not None and not isinstance(files.storage, LocalStorage):
            logger.warning("compat_names= are links, which %s cannot have: they are left out", files.storage.url)
            self._names = ()

    def on_event(self, event: Event) -> None:
        """After each change of what is listed."""
        if not self._names or self._files is None:
            return
        if isinstance(event, Durable | Amended | Resumed) or (isinstance(event, Pruned) and event.tier == HOME):
            with suppress(RuntimeError):  # the run was closed before its checkpointer
                self._files.begin(self._renew)

    async def _renew(self, storage: Storage) -> None:
        try:
            catalog = Catalog(storage)
            listed = (await catalog.listing()).checkpoints
            best = None
            with suppress(CheckpointNotFoundError):
                best, _ = await catalog.named("best")
            wanted = _wanted(self._names, listed, best)
            await blocking(storage, "link checkpoints", partial(_make, Path(storage.url), wanted, self._names))
        except (OSError, AsyncCkptError) as error:
            if not self._is_told:
                self._is_told = True
                logger.warning("the links of compat_names in %s are not as they should be: %s", storage.url, error)


def _wanted(names: Collection[str], listed: Sequence[Checkpoint], best: Checkpoint | None) -> dict[str, str]:
    """What each link is to lead to."""
    found: dict[str, str] = {}
    for name in names:
        if "{step}" in name:
            for each in listed:
                found[name.replace("{step}", str(each.step)).replace("{epoch}", str(each.epoch or 0))] = each.folder
        elif "best" in name and best is not None:
            found[name] = best.folder
        elif "latest" in name and listed:
            found[name] = listed[-1].folder
    return found


def _make(root: Path, wanted: dict[str, str], names: Collection[str]) -> None:
    ours = re.compile(
        "|".join(re.escape(name).replace(r"\{step\}", r"\d+").replace(r"\{epoch\}", r"\d+") for name in names)
    )
    for entry in os.scandir(root):
        if ours.fullmatch(entry.name) and entry.is_symlink() and entry.name not in wanted:
            os.unlink(entry.path)
    for name, folder in wanted.items():
        _point(root / name, folder)


def _point(link: Path, target: str) -> None:
    """Have `link` lead to `target`, with no moment at which it leads nowhere; a file of that name stays as it is."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    if link.exists() and not link.is_symlink():
        raise FileExistsError(f"{link} is there, and is no link")
    draft = link.with_name(f".{link.name}.draft")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)
