"""Identity: which run it is: its id, its name, when it was begun, by which code, and every start of it since."""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
import threading
import time
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.revision import CodeVersion

KEY = "identity.json"

_LONGEST = 80
_CLAIMED_FOR = 60.0
"""Seconds for which an id that a process of this machine has made is remembered."""

_lock = threading.Lock()
_made: set[str] = set()


@dataclass(frozen=True, slots=True)
class Identity:
    """What ``identity.json`` says; `starts` are all processes that opened the run, oldest first."""

    id: str
    name: str
    created: str
    """In ISO 8601, with the offset of the machine's time zone."""
    code_version: CodeVersion
    starts: tuple[Mapping[str, Any], ...] = ()
    went_back: str | None = None
    """The value of ``checkpoint.resume`` that a start has gone back to: later starts go on from what came after."""

    def encode(self) -> bytes:
        """As JSON, for people too."""
        return encoded(
            {
                "id": self.id,
                "name": self.name,
                "created": self.created,
                "code_version": {"hash": self.code_version.hash, "dirty": self.code_version.dirty},
                "went_back": self.went_back,
                "starts": list(self.starts),
            }
        )


def encoded(value: Any) -> bytes:
    """The one way in which this package writes JSON for people: strict, indented by 2, in the order given."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def decode(data: bytes | memoryview, what: str) -> Identity:
    """What `data` says; raises `CheckpointCorruptError`, naming `what`."""
    try:
        said = json.loads(bytes(data))
        version = said["code_version"]
        return Identity(
            str(said["id"]),
            str(said["name"]),
            str(said["created"]),
            CodeVersion(str(version["hash"]), bool(version["dirty"])),
            tuple(dict(start) for start in said["starts"]),
            said["went_back"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointCorruptError(
            f"{what} is not what a run has written ({error!r}): put a copy back, or delete it"
        ) from error


def start(mode: str, code: CodeVersion, now: datetime) -> dict[str, Any]:
    """What is noted of one process that opens a run."""
    return {
        "time": now.isoformat(timespec="seconds"),
        "mode": mode,
        "code_version": str(code),
        "hostname": platform.node(),
        "pid": os.getpid(),
    }


def safe_name(name: str) -> str:
    """`name` as one part of a path, of a key and of a tracker's id: it leads nowhere, and it is never empty."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:_LONGEST].strip("-._") or "run"


def new_id(name: str, code: CodeVersion, now: datetime) -> tuple[str, datetime]:
    """``{name}_{YYYYMMDD_HHMMSS}_{git8}``, and the second that it names.

    Of two that are made in the same second on this machine, the later one is given the next second.
    """
    at = int(now.timestamp())
    while True:
        moment = datetime.fromtimestamp(at, now.tzinfo)
        made = f"{safe_name(name)}_{moment:%Y%m%d_%H%M%S}_{code.hash}"
        if _claim(made):
            return made, moment
        at += 1


def _claim(made: str) -> bool:
    """Whether nobody on this machine has made this id before."""
    with _lock:
        if made in _made:
            return False
        _made.add(made)
    folder = Path(tempfile.gettempdir(), f"asyncckpt-ids-{getattr(os, 'getuid', lambda: 0)()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in folder.iterdir():
            with suppress(OSError):  # another process clears too
                if old.stat().st_mtime < time.time() - _CLAIMED_FOR:
                    old.unlink()
        (folder / made).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # no such folder to be had: then only this process's own ids differ for sure
        return True
    return True
