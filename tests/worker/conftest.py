from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncckpt.storage import ladder

_IN_MEMORY = "/dev/shm"  # noqa: S108 -- only a place for what would otherwise be in tmp_path


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for thousands of small files: in memory where there is such a place."""
    monkeypatch.setattr(ladder, "_RACES", 0)  # two threads each, for every store made; creates here are exclusive
    if not os.access(_IN_MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = tempfile.mkdtemp(prefix="asyncckpt-", dir=_IN_MEMORY)
    yield Path(folder)
    shutil.rmtree(folder)
