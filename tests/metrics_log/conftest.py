from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncckpt.metrics_log import MetricsLog
from asyncckpt.storage import LocalStorage, MemoryStorage, Storage

Open = Callable[..., MetricsLog]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rows wait for a store that cannot append: not the user's own cache."""
    folder = tmp_path / "caches"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("LOCALAPPDATA", str(folder))
    return folder


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A local folder, and a store that cannot append."""
    return LocalStorage(tmp_path / "logs") if request.param == "folder" else MemoryStorage(str(tmp_path))


@pytest.fixture
def start(place: Storage) -> Iterator[Open]:
    """Open a log; every one is closed at the end."""
    made: list[MetricsLog] = []

    def open_log(folder: object = place, **options: object) -> MetricsLog:
        made.append(MetricsLog(folder, **options))
        return made[-1]

    yield open_log
    for log in made:
        log.close()
