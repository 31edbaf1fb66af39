"""What several tests of the local storage look at."""

from __future__ import annotations

from pathlib import Path

BIG = 2 * 1024 * 1024


def everything(root: Path) -> list[str]:
    """Every name below `root`, hidden ones too."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
