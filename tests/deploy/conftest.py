from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = [DEPLOY / "prometheus" / "rules.yml", DEPLOY / "prometheus" / "alerts.yml"]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# The servers that these tests ask run on Linux.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*"]


def needs(*programs: str) -> None:
    """Skip where they are not here; in CI that is a failure."""
    from asyncckpt.testing.prometheus import installed

    if not installed(*programs):
        reason = f"{', '.join(programs)}: not all are here: make test gets them, or put them on the PATH"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    groups = yaml.safe_load(RULES[1].read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def hastened(folder: Path, factor: int) -> Sequence[Path]:
    """The rules with every time in them divided by `factor`, as files in `folder`."""

    def shorter(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * SECONDS[found[3]] * 1000 // factor}ms"

    made = []
    for path in RULES:
        text = re.sub(r"(\[|for: |interval: )(\d+)([smhd])\b", shorter, path.read_text())
        text = re.sub(r"(clamp_min\(.*, )(\d+)\)", lambda found: f"{found[1]}{int(found[2]) / factor})", text)
        made.append(folder / path.name)
        made[-1].write_text(text)
    return made
