"""Every benchmark runs and says what it found in valid rows. No time is judged here: other tests run beside these."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import overhead, run_layer, turns
from benchmarks.__main__ import NAMES
from benchmarks.bars import Bar
from benchmarks.growth import gained
from benchmarks.options import Options
from benchmarks.results import Report, row
from benchmarks.systems import OWN, PEERS
from benchmarks.table import show
from benchmarks.turns import LIMIT, Turns, take

ROOT = Path(__file__).parents[2]
FIELDS = ["bench", "case", "system", "metric", "unit", "median", "min", "max", "n"]


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120).stdout


def test_without_a_name_it_lists_every_benchmark() -> None:
    assert [line.split()[0] for line in run().splitlines()] == list(NAMES)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_writes_valid_rows(name: str, tmp_path: Path) -> None:
    found = tmp_path / "rows.jsonl"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    printed = run(name, "--quick", "--peers", "--json", str(found), "--scratch", str(scratch))
    rows = [json.loads(line) for line in found.read_text().splitlines()]
    assert rows
    for entry in rows:
        assert list(entry) == FIELDS
        assert entry["bench"] == name
        assert entry["n"] >= 1
        assert entry["min"] <= entry["median"] <= entry["max"]
        assert math.isfinite(entry["median"])
        assert entry["metric"] in printed
    assert any(entry["system"] == OWN for entry in rows)
    keys = [(entry["case"], entry["system"], entry["metric"]) for entry in rows]
    assert len(keys) == len(set(keys))
    assert list(scratch.iterdir()) == []
    assert "load average" in printed


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").rglob("*.jsonl")), ids=lambda path: path.stem)
def test_the_rows_kept_are_of_a_benchmark_that_is_there(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert json.loads(line)["bench"] == path.stem
        assert path.stem in NAMES


def test_d30_what_a_run_writes_down_adds_a_millisecond_to_a_step_at_most() -> None:
    """The bar is there, and the rows that are kept met it."""
    rows = [json.loads(line) for line in (ROOT / "benchmarks/results/run_layer.jsonl").read_text().splitlines()]
    found = {entry["metric"]: entry["median"] for entry in rows}
    for bar in (Bar("added", 1.0), Bar("calls", 1.0)):
        assert bar in run_layer.BARS
        assert found[bar.metric] <= 1.0


def test_a_peer_that_is_not_installed_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(turns, "is_installed", lambda name: False)
    assert take("stall", PEERS, 1, Options(quick=True, scratch=tmp_path)).notes == [
        f"{name}: not installed" for name in PEERS
    ]


def test_a_peer_that_fails_is_noted_and_this_project_is_not(tmp_path: Path) -> None:
    found = take("no_such_benchmark", ["torch.save"], 2, Options(quick=True, scratch=tmp_path))
    assert found.systems == []
    assert found.notes[0].startswith("torch.save: failed: ModuleNotFoundError")
    with pytest.raises(RuntimeError, match="no_such_benchmark of asyncckpt"):
        take("no_such_benchmark", [OWN], 1, Options(quick=True, scratch=tmp_path))


def test_a_sample_is_compared_with_the_limit_of_its_own_round() -> None:
    found = Turns({OWN: [[{"s": 2.0}, {"s": 3.0}], [{"s": 8.0}]], LIMIT: [[{"w": 1.0}], [{"w": 3.0}, {"w": 5.0}]]})
    assert found.against(OWN, "s", "w", lambda sample: sample["s"] != 3.0) == [2.0, 2.0]


def test_a_sample_is_compared_with_another_system_in_the_same_round() -> None:
    found = Turns({OWN: [[{"s": 2.0}, {"s": 3.0}], [{"s": 8.0}]], "peer": [[{"s": 1.0}], [{"s": 3.0}, {"s": 5.0}]]})
    assert found.over(OWN, "peer", "s") == [2.0, 3.0, 2.0]


def test_a_peer_that_a_benchmark_does_not_have_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run("download", "--peers", "boto3", "torch.save")
    assert "download has no peers torch.save, but obstore" in refused.value.stderr


def test_growth_is_from_once_it_is_warm_to_the_end() -> None:
    held = [0.0, 0.0, 5.0, 5.0, 6.0, 6.0, 6.0, 6.0, 7.0, 9.0]
    assert gained([{"progress": at / 10, "held": value} for at, value in enumerate(held)], "held") == [2.0, 4.0]


def test_overhead_is_stated_against_the_copy_and_the_write_of_the_same_round() -> None:
    saved = {"call": 1.0, "guard": 0.0, "durable": 2.0, "first": 0.0}
    rounds = [[saved | {"first": 1.0}, saved, {"extra": extra, "plain": 1.0}] for extra in (3.0, 8.0)]
    limits = [[{"bytes": 1e9, "copy": copy, "write": 2.0, "both": copy + 2.0}] for copy in (1.0, 2.0)]
    found = overhead._rows(Turns({OWN: rounds, LIMIT: limits}), "case", OWN)
    ratios = {entry.metric: (entry.unit, entry.min, entry.max, entry.n) for entry in found}
    assert ratios[overhead.COPY] == ("x", 3.0, 4.0, 2)
    assert ratios[overhead.BOTH] == ("x", 1.0, 2.0, 2)
    text = show(Report(found), overhead.BARS)
    assert f"no bar: case: {overhead.COPY} 3.5 x\nno bar: case: {overhead.BOTH} 1.5 x" in text


def test_bars_are_judged_by_medians_of_this_project_alone() -> None:
    rows = [
        row("b", "small", OWN, "rate", "x", [0.8, 1.0, 1.2]),
        row("b", "large", OWN, "rate", "x", [0.5]),
        row("b", "small", "peer", "rate", "x", [0.1]),
    ]
    bars = [Bar("rate", 0.9, at_least=True), Bar("rate", 0.6, case="large")]
    text = show(Report(rows, ["peer: not installed"]), bars)
    assert [line.split(":")[:2] for line in text.splitlines() if line.startswith("bar")] == [
        ["bar met", " small"],
        ["bar MISSED", " large"],
        ["bar met", " large"],
    ]
    assert "peer: not installed" in text
    disturbed = show(Report(rows, disturbed=True), bars)
    assert disturbed.count("bar not judged") == 3
    assert "met" not in disturbed
