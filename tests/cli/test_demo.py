"""The whole demo, in small: real processes, a real kill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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
    killed = (tmp_path / "demo" / "trainer-1.jsonl").read_text()
    assert '"done"' not in killed
    resumed = json.loads((tmp_path / "demo" / "trainer-2.jsonl").read_text().splitlines()[0])
    assert resumed["event"] == "resumed"
    assert resumed["step"] > 0


def test_the_demo_refuses_a_root_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    result = CliRunner().invoke(demo, ["--quick", "--root", str(tmp_path)])
    assert result.exit_code == 2
    assert "not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
