"""D37: what a run was and what came of it, on one page, in Markdown and in HTML; on local folders and URLs alike."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.report import compare, gather, html, markdown
from asyncckpt.report.checkpoints import lines

from .conftest import Place, trained

LOSSES = {100: 0.5, 200: 0.1, 300: 0.9, 400: 0.8}
CONFIG = {"lr": 1e-3, "model": {"d_model": 8}, "hub": {"apiKey": "s3cr3t"}, "url": "https://me:s3cr3t@host/x"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)


class Page(HTMLParser):
    """The elements of a page, its text, and whether every element that was begun was ended."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_d37_the_report_says_what_the_run_was_and_what_came_of_it(somewhere: Place) -> None:
    run_id = trained(somewhere.root, LOSSES, options=somewhere.options, config=CONFIG, samples=["once upon"])
    found = gather(somewhere.root, storage_options=somewhere.options)
    said = markdown(found)
    assert said.startswith(f"# {run_id}\n")
    for words in ("finished, last step 400", "loss 0.1 at step 200", "once upon", '"d_model": 8', "Linear", "torch"):
        assert words in said, words
    assert "s3cr3t" not in said
    assert "s3cr3t" not in html(found)
    headings = re.findall(r"^## (.*)$", said, re.MULTILINE)
    assert headings == [
        "Results",
        "Metrics",
        "Checkpoints",
        "Hyperparameters",
        "Model",
        "Configuration",
        "Hardware",
        "Starts",
    ]
    assert found.history.series("loss") == ([100, 200, 300, 400], [0.5, 0.1, 0.9, 0.8])


def test_d37_each_checkpoint_has_its_size_its_duration_and_why_it_is_there_or_went(somewhere: Place) -> None:
    trained(somewhere.root, LOSSES, options=somewhere.options)
    found = lines(gather(somewhere.root, storage_options=somewhere.options))
    pruned, *listed = found
    assert [(line.step, line.state, line.fate) for line in listed] == [
        (200, "durable", "kept: best"),
        (300, "durable", "kept by the policy"),
        (400, "durable", "kept: latest"),
    ]
    assert (pruned.step, pruned.state) == (100, "pruned")
    assert pruned.fate
    for line in found:
        assert line.seconds is not None
        assert line.seconds > 0
        assert line.size
        assert line.written is not None
        assert line.created is not None
        assert line.created > 1.7e9


def test_d37_damage_is_said_and_the_rest_is_read(tmp_path: Path) -> None:
    root = tmp_path / "run"
    trained(str(root), LOSSES)
    pack = next((root / "data").glob("*-step-300-*/*.safetensors"))
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    assert CliRunner().invoke(app, ["verify", str(root), "--note"]).exit_code == 1
    (root / "results.json").write_text("{")
    (root / "hyperparameters.json").write_text("[]")
    with (root / "logs/metrics.jsonl").open("a") as log:
        log.write("no row\n")
    found = gather(root)
    assert len(found.problems) == 3
    (damaged,) = (line for line in lines(found) if line.state == "damaged")
    assert damaged.step == 300
    assert damaged.fate.startswith("damaged, kept as evidence: ")
    assert "results.json is damaged" in html(found)
    assert found.status == "unfinished"


DEEP = '{"a":' * 100_000
HALF_AS_DEEP = '{"a":' * 500 + "1" + "}" * 500
"""Of what is read, and cannot be gone through as it is."""
ODD = {
    "identity.json": [
        '{"starts": 5}', '{"starts": null}', '{"starts": {"time": 1}}', '{"id": {"a": []}, "name": 3}',
        '{"starts": [1, {"time": [1]}, {"time": "0001-01-01T00:00:00", "pid": {}}]}', '{"code_version": {}}', DEEP,
    ],
    "results.json": [
        '{"final_metrics": 5}', f'{{"final_metrics": {{"loss": 1{"0" * 400}, "x": null, "y": [1]}}}}', "5",
        '{"timestamp": 3, "best_checkpoint": {}}', '{"generation_samples": {"a": 1}}',
        '{"generation_samples": ["\\ud800"]}', HALF_AS_DEEP,
    ],
    "config.json": ['{"config": 5}', '{"config": [1]}', '{"model": "x", "hardware": 3, "dataset": []}', "\xff"],
    "wandb_info.json": ['{"run_id": [1], "run_url": {}}'],
    "hyperparameters.json": ['{"a": {"b": [null]}}'],
    "logs/metrics.jsonl": [
        f'{{"step": 1, "timestamp": "", "loss": 1{"0" * 400}}}', '{"step": -1, "timestamp": "x", "loss": [1], "": {}}',
        DEEP,
    ],
    "logs/checkpoints.jsonl": [
        '{"step": 1, "timestamp": "", "event": "durable", "seq": [1]}',
        '{"step": 1, "timestamp": "", "event": "durable", "seq": 1, "seconds": "long", "created": 1e300}',
        '{"step": 1, "timestamp": "", "event": "pruned", "seq": 1, "written": {}}',
        '{"step": 1, "timestamp": "", "event": "pruned", "seq": -10, "bytes": true}',
        '{"step": 1, "timestamp": "", "event": "superseded", "by_step": {}, "reason": 1}',
        "\n".join(f'{{"step": 1, "timestamp": "", "event": "pruned", "seq": {seq}}}' for seq in ("1", "1.5", "null")),
    ],
}  # fmt: skip


def test_d37_whatever_the_files_of_a_run_say_there_is_a_report(tmp_path: Path) -> None:
    root = tmp_path / "run"
    trained(str(root), {1: 0.5, 2: 0.4}, config=CONFIG)
    sound = {name: (root / name).read_bytes() if (root / name).exists() else b"" for name in ODD}
    for texts in itertools.zip_longest(*ODD.values()):  # all files at once: none is read for what another says
        for name, text in zip(ODD, texts, strict=True):
            (root / name).write_bytes(sound[name] if text is None else text.encode("latin-1") + b"\n")
        said = gather(root)
        assert "run" in markdown(said).encode().decode()
        assert [line.id for line in lines(said) if int(line.id) > 0] == ["00000001", "00000002"], "each is there once"
        found = compare([root], sort="loss")
        found.markdown().encode()
        found.csv().encode()
        json.dumps(found.json(), allow_nan=False)


def test_d37_a_run_whose_commits_are_lost_still_has_a_report(tmp_path: Path) -> None:
    trained(str(tmp_path / "run"), LOSSES, config=CONFIG)
    for path in (tmp_path / "run/commits").iterdir():
        path.unlink()
    found = gather(tmp_path / "run")
    assert "which checkpoints there are is not known" in found.problems[0]
    assert "Configuration" in markdown(found)


def test_d37_checkpoints_of_no_run_and_without_logs_are_reported_too(tmp_path: Path) -> None:
    trained(str(tmp_path / "run"), LOSSES)
    for name in ("identity.json", "config.json", "results.json", "logs/metrics.jsonl", "logs/checkpoints.jsonl"):
        (tmp_path / "run" / name).unlink()
    found = gather(tmp_path / "run")
    assert (found.name, found.status) == ("run", "unfinished")
    assert found.is_of_checkpoints
    assert found.history.series("loss") == ([200, 300, 400], [0.1, 0.9, 0.8])
    said = markdown(found)
    assert "no metrics log" in said
    assert "JsonLinesTracker" in said


def test_d37_a_run_that_went_on_after_its_results_is_not_called_finished(tmp_path: Path) -> None:
    root = tmp_path / "run"
    trained(str(root), {1: 0.5})
    assert gather(root).status == "finished"
    identity = json.loads((root / "identity.json").read_text())
    identity["starts"].append({**identity["starts"][0], "time": "9999-01-01T00:00:00+00:00", "mode": "resume"})
    (root / "identity.json").write_text(json.dumps(identity))
    assert gather(root).status == "resumed"


def test_d37_the_newest_configuration_is_shown_with_what_the_first_start_said_of_the_model(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        trained(str(tmp_path / "run"), {1: 0.5}, config={"lr": lr})
    found = gather(tmp_path / "run")
    assert found.config["config"] == {"lr": 0.2}
    assert found.config["model"]["type"] == "Linear"
    assert len(found.starts) == 2
    by_hand = {"config": {"lr": 0.3, "api_key": "s3cr3t"}}
    (tmp_path / "run/config-2.json").write_text(json.dumps(by_hand))
    found = gather(tmp_path / "run")
    assert found.config["config"] == {"lr": 0.3, "api_key": "***"}
    assert "s3cr3t" not in markdown(found) + html(found)


def test_d37_the_page_needs_nothing_else_and_nothing_in_a_run_can_act_in_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    evil = "<script>alert(1)</script>"
    trained(str(tmp_path / "run"), LOSSES, config={"name": evil, evil: [evil]}, samples=[evil, "x" * 5000])
    said = html(gather(tmp_path / "run"))
    page = Page(said)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert "link" not in tags
    pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2
    for picture in pictures:
        head, _, data = picture.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data, validate=True)[:8] == b"\x89PNG\r\n\x1a\n"
    assert not re.search(r"https?://", re.sub(r"base64,[^\"]*", "", said))
    assert evil in "".join(page.text)
    assert "5,000 characters in all" in said
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy


def test_d37_nothing_in_a_run_can_act_in_the_markdown(tmp_path: Path) -> None:
    evil = "a|b [x](javascript:1) `c` <b>\nd"
    trained(str(tmp_path / "run"), LOSSES, config={"optimizer": evil, "text": "```\nout"})
    said = markdown(gather(tmp_path / "run"))
    (row,) = (line for line in said.splitlines() if "javascript" in line and line.startswith("|"))
    assert "a\\|b \\[x\\](javascript:1) \\`c\\` \\<b\\> d" in row
    assert said.count("````") == 2  # a fence that the text in it does not end


def test_d37_without_matplotlib_a_line_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(str(tmp_path / "run"), LOSSES)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = gather(tmp_path / "run")
    for said in (html(found), markdown(found).replace("\\", "")):
        assert "No curves: plots need matplotlib" in said
        assert "No timeline: plots need matplotlib" in said
        assert "asyncckpt[plots]" in said
    assert "<img" not in html(found)


def test_d37_where_there_is_no_run_that_is_an_error_and_nothing_is_made(somewhere: Place) -> None:
    with pytest.raises(CheckpointNotFoundError, match="holds no run"):
        gather(somewhere.root, storage_options=somewhere.options)
    assert "://" in somewhere.root or not Path(somewhere.root).exists()


def test_d37_reading_changes_nothing(tmp_path: Path) -> None:
    trained(str(tmp_path / "run"), LOSSES)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    html(gather(tmp_path / "run"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


class TestCommand:
    """``asyncckpt report``."""

    def test_d37_it_prints_markdown(self, tmp_path: Path) -> None:
        trained(str(tmp_path / "run"), LOSSES)
        result = run(tmp_path / "run")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith("# run_")

    def test_d37_it_writes_a_page_or_markdown_with_its_pictures_beside_it(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        trained(str(tmp_path / "run"), LOSSES)
        for name in ("page.html", "page.md"):
            result = run(tmp_path / "run", "--output", tmp_path / name)
            assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"wrote {tmp_path / name}\n")
        assert Page((tmp_path / "page.html").read_text()).open == []
        assert "![Every metric over the steps](page-curves.png)" in (tmp_path / "page.md").read_text()
        assert (tmp_path / "page-curves.png").read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / "page-timeline.png").exists()

    def test_d37_as_json_it_is_one_document(self, tmp_path: Path) -> None:
        trained(str(tmp_path / "run"), {**LOSSES, 500: float("nan")}, config=CONFIG)
        found: dict[str, Any] = json.loads(run(tmp_path / "run", "--json").stdout, parse_constant=pytest.fail)
        assert found["schema"] == 1
        assert (found["status"], found["step"], found["metrics"]["loss"]["min"]) == ("finished", 500, 0.1)
        assert found["metrics"]["loss"]["final"] == "NaN"
        assert found["config"]["hub"] == {"apiKey": "***"}
        assert [(each["step"], each["why"]) for each in found["checkpoints"]][:2] == [
            (100, found["checkpoints"][0]["why"]),
            (200, "kept: best"),
        ]

    def test_d37_what_is_wrong_is_said_in_one_line(self, tmp_path: Path) -> None:
        trained(str(tmp_path / "run"), LOSSES)
        result = run(tmp_path / "absent")
        assert result.exit_code == 3
        assert "holds no run" in result.stderr
        assert run(f"{tmp_path / 'run'}@latest").exit_code == 2
        assert "a report is .html or .md" in run(tmp_path / "run", "-o", tmp_path / "x.pdf").stderr
        result = run(tmp_path / "run", "-o", tmp_path / "absent" / "x.html")
        assert result.exit_code == 1
        assert "No such file" in result.stderr

    def test_d37_it_imports_no_torch(self, tmp_path: Path) -> None:
        trained(str(tmp_path / "run"), LOSSES)
        program = (
            "import sys; from asyncckpt.cli.app import app\n"
            f"app(['report', {str(tmp_path / 'run')!r}, '--json'], standalone_mode=False)\n"
            f"app(['compare', {str(tmp_path)!r}], standalone_mode=False)\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, timeout=120)
