"""Foreign: checkpoints of other systems, plain files in a folder, of which somebody wants the latest sound one."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import os
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from asyncckpt.tallies import TALLIES

logger = logging.getLogger("asyncckpt")

_STEP = re.compile(r"(\d+)(?!.*\d)")
_PICKLE = b"\x80"


def find_latest_checkpoint(folder: str | os.PathLike[str], pattern: str = "*.pt") -> str | None:
    """The path of the latest sound checkpoint file in `folder`, or None; for a root of asyncckpt: ``ckpt.latest()``.

    The highest step counts, which is the last number in a name; files without one come after those, newest first.
    Links to a file beside them and hidden files are left out. A damaged file is a warning, and the one before it is
    taken; where all are, that is an error in the log and None. Files may come and go meanwhile.

    Nothing is kept from one call to the next, so that what another process writes is seen; to look at 10,000 files
    takes a tenth of a second.
    """
    began = time.perf_counter()
    try:
        return _latest(folder, pattern)
    except OSError as error:
        TALLIES.error(error)
        raise
    finally:
        TALLIES.add("discoveries")
        TALLIES.add("discovery_seconds", amount=time.perf_counter() - began)


def _latest(folder: str | os.PathLike[str], pattern: str) -> str | None:
    damaged = 0
    for path in _newest_first(folder, pattern):
        try:
            reason = _damage(path)
        except FileNotFoundError:
            continue  # removed since it was listed
        except OSError as error:
            TALLIES.error(error)
            reason = str(error)
        if reason is None:
            return str(path)
        damaged += 1
        logger.warning("%s is damaged and passed over: %s", path, reason)
    if damaged:
        logger.error("all %d checkpoints in %s are damaged", damaged, os.fspath(folder))
    return None


async def find_latest_checkpoint_async(folder: str | os.PathLike[str], pattern: str = "*.pt") -> str | None:
    """`find_latest_checkpoint`, on an event loop that goes on meanwhile."""
    return await asyncio.to_thread(find_latest_checkpoint, folder, pattern)


def _newest_first(folder: str | os.PathLike[str], pattern: str) -> list[Path]:
    try:
        found = list(_files(folder, pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []
    TALLIES.add("discovery_files", amount=len(found))
    return [Path(path) for *_, path in sorted(found, reverse=True)]


def _files(folder: str | os.PathLike[str], pattern: str) -> Iterator[tuple[int, int, str]]:
    """Step, time and path of each; -1 for a name without a number."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not fnmatch.fnmatchcase(entry.name, pattern):
                continue
            try:
                if not entry.is_file() or (entry.is_symlink() and _leads_beside(entry.path)):
                    continue
                number = _STEP.search(entry.name)
                yield int(number[1]) if number else -1, entry.stat().st_mtime_ns, entry.path
            except FileNotFoundError:
                continue


def _leads_beside(path: str) -> bool:
    return os.path.dirname(os.path.realpath(path)) == os.path.realpath(os.path.dirname(path))


def _damage(path: Path) -> str | None:
    """What is wrong with a file, or None. Of what ``torch.save`` writes every byte is checked, which ``torch.load``
    does not do; an old one, without checksums, only by its beginning.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            beginning = file.read(len(_PICKLE))
        return None if beginning == _PICKLE else "it is empty" if not beginning else "it is no file of torch.save"
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            names = archive.namelist()
    except OSError:
        raise
    except Exception as error:  # of a damaged archive zipfile raises anything: a bit says that it needs a password
        return str(error) or type(error).__name__
    if bad is not None:
        return f"{bad} in it is not what its checksum says"
    return None if any(name.endswith("data.pkl") for name in names) else "it is an archive of something else"
