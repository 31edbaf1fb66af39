"""The whole demo, in small: real processes, a real kill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from asyncckpt.cli.demo import demo

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kills


def test_a_run_killed_in_a_save_ends_equal_to_its_twin(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, ["--quick", "--root", str(tmp_path / "demo")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "yes, bit for bit" in result.output
    assert "SIGKILL after step" in result.output
    assert 'asyncckpt_saves_total{outcome="' in result.output
    killed, resumed = (lines(tmp_path / "demo" / f"trainer-{number}.jsonl") for number in (1, 2))
    assert "done" not in killed
    assert 0 < resumed["resumed"][0]["step"] <= killed["step"][-1]["step"]


def lines(log: Path) -> dict[str, list[dict[str, Any]]]:
    """What a process printed, by kind of event; the last line of a killed one may be cut short."""
    found: dict[str, list[dict[str, Any]]] = {}
    for text in log.read_text().splitlines(keepends=True):
        if text.endswith("\n"):
            line = json.loads(text)
            found.setdefault(line["event"], []).append(line)
    return found


def test_the_demo_refuses_a_root_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    result = CliRunner().invoke(demo, ["--quick", "--root", str(tmp_path)])
    assert result.exit_code == 2
    assert "not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
