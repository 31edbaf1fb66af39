"""T16: whatever comes when, what is saved is what was there, and nothing races."""

from __future__ import annotations

import pytest

from . import schedules


@pytest.mark.long
@pytest.mark.parametrize("block", range(10))
def test_T16_random_schedules(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(block * 20, block * 20 + 20):
        assert schedules.trouble(seed, monkeypatch) == [], seed
