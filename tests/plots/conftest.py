from __future__ import annotations

from typing import Any

import pytest

from asyncckpt.plots import theme


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of few pixels are drawn in less time."""
    png = theme.png
    monkeypatch.setattr(theme, "png", lambda made: png(made, dpi=30))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, as matplotlib has them, beside the pictures of them."""
    pytest.importorskip("matplotlib")
    drawn: list[Any] = []
    png = theme.png

    def draw(made: Any) -> bytes:
        drawn.append(made)
        picture: bytes = png(made)
        return picture

    monkeypatch.setattr(theme, "png", draw)
    return drawn
