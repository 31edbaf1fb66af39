from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .stub import Wandb


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the user's own, and no caches either."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    """A stand-in for the package."""
    made = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", made)
    return made
