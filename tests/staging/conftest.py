from __future__ import annotations

from collections.abc import Iterator

import pytest

from asyncckpt.staging import schedule

from .held import Gate


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The copier does not copy before the gate is opened."""
    held = Gate()
    monkeypatch.setattr(schedule, "copy_group", held)
    yield held
    held.open()
