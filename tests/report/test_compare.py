"""B18, D37: many runs in one table: what differs, how far each is, and what came of it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from asyncckpt import AsyncCheckpointer, Run
from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.report import compare, runs_in

from .conftest import Place, trained


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three runs: b is the best, c was not finished and has logged NaN last."""
    base = {"model": {"d_model": 8, "layers": [1, 2]}, "seed": 1, "hub": {"token": "s3cr3t"}}
    trained(str(tmp_path / "Run-a"), {10: 0.5, 20: 0.25}, config={**base, "lr": 0.1})
    trained(
        str(tmp_path / "run-b"),
        {10: 0.3, 20: 0.1},
        config={**base, "lr": 0.2, "model": {"d_model": 16, "layers": [1, 2]}},
    )
    trained(
        str(tmp_path / "run-c"), {10: 0.9, 30: float("nan")}, config={**base, "warmup": 5, "clip": None}, finished=False
    )
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file.txt").touch()
    return tmp_path


def test_b18_the_keys_that_differ_are_shown_and_those_that_do_not_are_not(three: Path) -> None:
    table = compare(runs_in(three))
    assert [key for key in table.differing if key != "code_version"] == ["model.d_model", "lr", "warmup", "clip"]
    headings, rows = table.table()
    shown = [headings.index(name) for name in ("config.lr", "warmup", "clip")]
    assert [tuple(row[at] for at in shown) for row in rows] == [
        ("0.1", "-", "-"),
        ("0.2", "-", "-"),
        ("-", "5", "null"),
    ]
    config = three / "Run-a/config.json"
    config.write_text(config.read_text().replace("***", "s3cr3t"))  # by hand, or by an earlier version
    for each in (table, compare(runs_in(three))):
        assert "s3cr3t" not in each.markdown() + each.csv() + json.dumps(each.json())


def test_b18_runs_of_other_code_differ_by_it(three: Path) -> None:
    identity = three / "run-b/identity.json"
    said = json.loads(identity.read_text())
    identity.write_text(json.dumps({**said, "code_version": {"hash": "0123abcd", "dirty": True}}))
    headings, rows = compare(runs_in(three)).table()
    assert rows[1][headings.index("code_version")] == "0123abcd-dirty"


def test_b18_of_many_settings_that_differ_people_are_shown_some_and_programs_all(tmp_path: Path) -> None:
    for run in (1, 2):
        trained(
            str(tmp_path / f"run-{run}"), {1: 0.5}, config={f"k{number:02}": run * number for number in range(1, 16)}
        )
    table = compare(runs_in(tmp_path))
    assert len(table.differing) == 15
    assert "k12" in table.markdown()
    assert "k13" not in table.markdown()
    assert "3 more settings differ: they are in the CSV and the JSON." in table.markdown()
    assert "k15" in table.csv().splitlines()[0].split(",")
    assert table.json()["runs"][1]["settings"]["k15"] == 30


def test_b18_a_metric_that_rises_is_best_where_it_is_highest(tmp_path: Path) -> None:
    for name, values in (("one", (0.5, 0.9, 0.7)), ("two", (0.8, 0.6, 0.6))):
        with (
            Run.open(tmp_path / name, logs=False) as made,
            AsyncCheckpointer(made, model=torch.nn.Linear(2, 2), monitor=("acc", "max")) as ckpt,
        ):
            for step, value in enumerate(values, 1):
                ckpt.save(step, metrics={"acc": value}).wait()
    for descending, order in ((None, ["one", "two"]), (False, ["two", "one"])):
        table = compare(runs_in(tmp_path), sort="acc", descending=descending)
        assert [Path(entry.root).name for entry in table.entries] == order
        best = {Path(entry.root).name: entry.measures["acc"] for entry in table.entries}
        assert {name: (found.best, found.step, found.final) for name, found in best.items()} == {
            "one": (0.9, 2, 0.7),
            "two": (0.8, 1, 0.6),
        }


def test_b18_an_unfinished_run_is_marked_and_compared_as_far_as_it_is(three: Path) -> None:
    table = compare(runs_in(three))
    assert [(entry.status, entry.step) for entry in table.entries] == [
        ("finished", 20),
        ("finished", 20),
        ("unfinished", 30),
    ]
    assert table.entries[2].measures["loss"].best == 0.9


def test_b18_each_run_has_its_best_by_its_own_monitor(three: Path) -> None:
    entries = compare(runs_in(three)).entries
    assert [(e.measures["loss"].best, e.measures["loss"].step) for e in entries] == [(0.25, 20), (0.1, 20), (0.9, 10)]


def test_b18_runs_are_ordered_by_a_metric_and_those_without_it_come_last(three: Path) -> None:
    names = [Path(entry.root).name for entry in compare(runs_in(three), sort="loss").entries]
    assert names == ["run-b", "Run-a", "run-c"]
    names = [Path(entry.root).name for entry in compare(runs_in(three), sort="loss", descending=True).entries]
    assert names == ["run-c", "Run-a", "run-b"]
    for name, value in (("Run-a", '"NaN"'), ("run-b", "0.5"), ("run-c", "0.25")):
        row = f'{{"step":1,"timestamp":"2026-01-01T00:00:00.000000+00:00","acc":{value}}}\n'
        (three / name / "logs/metrics.jsonl").write_text(row)
    trained(str(three / "run-d"), {10: 0.3})
    for descending, order in ((None, ["run-c", "run-b"]), (True, ["run-b", "run-c"])):
        table = compare(runs_in(three), sort="acc", descending=descending)
        assert [Path(entry.root).name for entry in table.entries] == [*order, "Run-a", "run-d"]
    with pytest.raises(ValueError, match="no run has a metric 'f1': there is acc, loss, lr"):
        compare(runs_in(three), sort="f1")


def test_b18_the_table_is_there_as_markdown_csv_and_json(three: Path) -> None:
    table = compare(runs_in(three), sort="loss")
    lines = table.markdown().splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [(row["loss.final"], row["loss.best"], row["loss.best_step"]) for row in rows][:2] == [
        ("0.1", "0.1", "20"), ("0.25", "0.25", "20"),
    ]  # fmt: skip
    found = json.loads(json.dumps(table.json(), allow_nan=False))
    assert found["runs"][2]["metrics"]["loss"] == {"final": "NaN", "best": 0.9, "best_step": 10}


def test_b18_runs_behind_a_url_are_found_and_compared_too(somewhere: Place) -> None:
    for name, lr in (("one", 0.1), ("two", 0.2), ("two-b", 0.3)):
        trained(f"{somewhere.root}/{name}", {10: lr}, config={"lr": lr}, options=somewhere.options)
    found = runs_in(somewhere.root, storage_options=somewhere.options)
    assert [root.rpartition("/")[2] for root in found] == ["one", "two", "two-b"]
    table = compare(found, storage_options=somewhere.options, sort="loss")
    assert [entry.settings["lr"] for entry in table.entries] == [0.1, 0.2, 0.3]
    assert runs_in(found[0], storage_options=somewhere.options) == [found[0]]
    with pytest.raises(CheckpointNotFoundError):
        runs_in(f"{somewhere.root}/absent", storage_options=somewhere.options)


def test_b18_a_run_with_damage_is_compared_and_marked(three: Path) -> None:
    (three / "Run-a/results.json").write_text("{")
    table = compare(runs_in(three))
    assert table.table()[1][0][1] == "unfinished, damaged"


class TestCommand:
    """``asyncckpt compare``."""

    def test_b18_it_prints_a_table_of_all_runs_in_a_folder(self, three: Path) -> None:
        result = run(three, "--sort", "loss")
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert lines[0].split()[:3] == ["RUN", "STATUS", "STEP"]
        assert len(lines) == 4
        assert "0.1 @20" in lines[1]

    def test_b18_its_other_forms(self, three: Path) -> None:
        roots = [three / "Run-a", three / "run-b"]
        assert run(*roots, "--format", "markdown").stdout.startswith("| Run ")
        assert run(*roots, "--format", "csv").stdout.startswith("run,root,status,step,")
        found = json.loads(run(*roots, roots[0], "--json", "--metric", "lr").stdout)
        assert (found["schema"], found["metrics"], len(found["runs"])) == (1, ["lr"], 2)

    def test_b18_what_is_wrong_is_said_in_one_line(self, three: Path) -> None:
        assert run(three / "no-run").exit_code == 3
        result = run(three, "--sort", "f1")
        assert result.exit_code == 2
        assert "no run has a metric 'f1'" in result.stderr
        assert run().exit_code == 2
