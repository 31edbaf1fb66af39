"""D36, B19: pages over runs, asked in this process: what they say, and that whatever comes from a run is only text."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from click.testing import CliRunner
from starlette.testclient import TestClient

from asyncckpt import AsyncCheckpointer
from asyncckpt.cli.app import app
from asyncckpt.configuration.masking import MASK
from asyncckpt.serve.pages import Pages
from asyncckpt.testing.s3server import S3Server

from .conftest import EVIL, EVIL_NAME, HIDDEN, Settings, served, train

VOID = {"meta", "link", "input", "img", "br"}
OURS = {
    *(
        "html",
        "head",
        "body",
        "title",
        "meta",
        "link",
        "script",
        "noscript",
        "header",
        "nav",
        "main",
        "footer",
        "section",
    ),
    *("a", "p", "b", "br", "h1", "h2", "span", "div", "code", "pre", "form", "button", "input", "label", "details"),
    *("summary", "table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "time", "figure", "figcaption"),
    *("svg", "path", "line", "text", "rect", "circle"),
}


class Parsed(HTMLParser):
    """Every element of a page and its text; that each is ended, is one of ours, and none has a handler or a style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str | None] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in OURS, tag
        given = dict(attrs)
        assert not [name for name in given if name.startswith("on") or name == "style"], given
        if tag == "script":
            self.scripts.append(given.get("src"))
        for name in ("href", "src", "action"):
            self.links += [given[name] or ""] if name in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.remove(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """In one line."""
        return " ".join(" ".join(self.words).split())


def page(client: TestClient, path: str, status: int = 200) -> Parsed:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    found = Parsed(answer.text)
    assert not [link for link in found.links if "://" in link or link.startswith("//")], found.links
    assert [src for src in found.scripts if not (src or "").endswith("static/page.js")] == []
    assert HIDDEN not in answer.text
    return found


EVERY = [
    "/",
    "/run/plain",
    "/run/plain?scale=log&state=pruned",
    "/run/plain/00000002",
    f"/run/{quote(EVIL_NAME)}",
    f"/run/{quote(EVIL_NAME)}/latest",
    "/diff",
    "/diff?a=plain@best&b=plain@latest",
    f"/diff?a=plain@best&b={quote(EVIL_NAME)}@latest",
    f"/compare?run=plain&run={quote(EVIL_NAME)}&scale=log",
]


@pytest.mark.parametrize("path", EVERY)
def test_B19_whatever_comes_from_a_run_is_text_and_nothing_is_asked_of_others(client: TestClient, path: str) -> None:
    page(client, path)


@pytest.mark.parametrize("path", ["/run/<script>", "/diff?a=<script>@1&b=x", "/run/plain?state=<script>", "/<script>"])
def test_B19_what_a_url_says_is_text_too(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    Parsed(answer.text)


def test_B19_to_look_changes_nothing(runs: Path) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in runs.rglob("*")}

    before = state()
    with served(runs) as client:  # one of its own: what another has looked at may not be looked at again
        for path in (
            *EVERY,
            "/api/runs",
            "/api/run/plain/checkpoints",
            "/api/run/plain/checkpoints/latest",
            "/api/compare",
        ):
            assert client.get(path).status_code == 200, path
    assert state() == before


def test_D36_the_list_of_runs_says_how_each_is(client: TestClient) -> None:
    text = page(client, "/").text
    assert re.search(r"plain finished 400 .* ago 3 .* loss 0\.8", text), text
    assert f"{EVIL_NAME} unfinished 150" in text
    assert text.index(f"{EVIL_NAME} unfinished") < text.index("plain finished"), "what was saved last comes first"


def test_D36_a_root_that_is_a_run_leads_to_it(runs: Path) -> None:
    with served(runs / "plain") as client:
        assert client.get("/").headers["location"] == "run/plain"
        assert "finished" in page(client, "/run/plain").text


def test_D36_a_run_has_its_checkpoints_with_state_size_time_stall_and_reason(runs: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(runs / "plain", tmp_path / "plain", symlinks=True))
    log = root / "logs/checkpoints.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    told = [row | ({"stalled": 0.0123, "seconds": 4.5} if row["event"] == "durable" else {}) for row in rows]
    failed = {"step": 350, "timestamp": rows[-1]["timestamp"], "event": "failed", "phase": "write", "reason": EVIL}
    passed = [failed | {"step": 360, "event": "superseded", "by_step": 400}, failed | {"step": 370, "event": "skipped"}]
    log.write_text("".join(json.dumps(row) + "\n" for row in [*told, failed, *passed]))
    with served(root) as client:
        text = page(client, "/run/plain").text
        over = page(client, "/run/plain?state=passed over").text
    assert re.search(r"00000002 200 2 \d+ \w+ ago 4\.5 s 12 ms \d+ B [\d.]+ \w+ durable kept: best", text), text
    assert re.search(r"00000004 400 .* durable kept: latest", text)
    assert re.search(r"00000001 100 .* pruned no rule keeps it: last 2", text)
    assert f"failed write: {EVIL}" in text
    assert "Failed 1 2 passed over, 0 damaged" in text
    assert "superseded step 400 took its place" in over
    assert f"failed write: {EVIL}" not in over
    assert "Best loss 0.1 at step 200" in text
    assert "Stall of a save 12 ms" in text


def test_D36_its_checkpoints_are_picked_by_what_became_of_them(client: TestClient) -> None:
    text = page(client, "/run/plain?state=pruned").text
    assert "00000001" in text
    assert "kept: latest" not in text
    assert client.get("/run/plain?state=lost").status_code == 400


def test_D36_its_metrics_are_drawn_with_what_is_not_finite(client: TestClient) -> None:
    text = client.get("/run/plain").text
    assert text.count('data-hover="chart"') == 3
    assert text.count('class="odd"') == 1
    assert "best: step 200" in text


def test_D36_a_checkpoint_says_what_it_holds_and_no_secret(client: TestClient) -> None:
    found = page(client, "/run/plain/00000002?tensors=weight")
    assert re.search(r"model 4 \d+ B 0", found.text)
    assert "model.0.weight float32 4 × 4 64 B" in found.text
    assert "model.0.bias" not in found.text
    assert f"extra.mine.api_key {MASK}" in found.text


def test_D36_a_checkpoint_that_is_gone_says_why(client: TestClient) -> None:
    assert "00000001 of step 100 is gone: no rule keeps it" in page(client, "/run/plain/00000001", 404).text


def test_D36_two_checkpoints_differ_by_tensors_and_values(client: TestClient) -> None:
    text = page(client, "/diff?a=plain@best&b=plain@latest").text
    assert "1 tensor changed, 0 came, 0 went" in text
    assert "changed model.0.weight float32 4 × 4 float32 4 × 4 64 B" in text
    assert "hold the same state" in page(client, "/diff?a=plain@best&b=plain@200").text


def test_of_a_value_in_a_sequence_all_of_that_is_shown(tmp_path: Path) -> None:
    mine = Settings(schedule=[1, 2], api_keys=[HIDDEN])
    with AsyncCheckpointer(tmp_path / "run", model=torch.nn.Linear(1, 1), extra={"mine": mine}) as ckpt:
        for step in (1, 2):
            ckpt.save(step).wait()
            mine.values = {"schedule": [1, 3, 5], "api_keys": [HIDDEN[::-1]]}
    with served(tmp_path / "run") as client:
        text = page(client, "/diff?a=run@1&b=run@2").text
    assert "extra.mine.schedule.1 [1, 2] [1, 3, 5]" in text
    assert "extra.mine.schedule.2 [1, 2] [1, 3, 5]" in text
    assert f"extra.mine.api_keys.0 {MASK} {MASK}" in text


def test_what_the_timeline_shows_is_named(client: TestClient) -> None:
    assert "Saves: seconds until durable pruned durable" in page(client, "/run/plain").text


def test_D36_runs_side_by_side_have_one_line_each(client: TestClient) -> None:
    answer = client.get("/compare", params={"run": ["plain", EVIL_NAME]})
    text = Parsed(answer.text).text
    assert f"{EVIL_NAME} unfinished" in text
    assert re.search(r'class="line c0".*class="line c1"', answer.text, re.DOTALL)
    assert client.get("/compare").status_code == 400
    assert client.get("/compare?run=other").status_code == 404


def test_D36_damage_is_said_and_the_rest_is_shown(runs: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(runs / "plain", tmp_path / "plain", symlinks=True))
    (root / "results.json").write_text("{")
    next((root / "data").glob("00000003-*/manifest.json")).unlink()
    CliRunner().invoke(app, ["verify", str(root), "--note"], catch_exceptions=False)
    with served(root) as client:
        text = page(client, "/run/plain").text
        assert "results.json is damaged" in text
        assert re.search(r"00000003 300 .* damaged damaged, kept as evidence: .*manifest.json", text)
        assert "What it holds cannot be shown" in page(client, "/run/plain/00000003").text
        assert "manifest.json" in page(client, "/diff?a=plain@latest&b=plain@00000003", 500).text
        assert client.get("/api/run/plain/checkpoints/00000003").status_code == 500


def test_D36_a_head_that_is_damaged_is_a_sentence(runs: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(runs / "plain", tmp_path / "plain", symlinks=True))
    for record in (root / "commits").iterdir():
        record.write_bytes(record.read_bytes()[:-20])
    with served(root) as client:
        assert "which checkpoints there are is not known" in page(client, "/run/plain").text
        assert "no checkpoint 'latest'" in page(client, "/run/plain/latest", 404).text


def test_D36_a_mistake_of_ours_is_a_page_without_its_traceback(
    runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with served(runs) as client:
        monkeypatch.setattr(Pages, "_rows", lambda pages, names: {}[HIDDEN])
        text = page(client, "/", 500).text
    assert "this is a mistake of asyncckpt" in text
    assert "the page / could not be made" in caplog.text


def test_D36_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    moment = "2026-11-29T10:00:00.000000+00:00"
    saves = [
        {"step": 2 * seq, "timestamp": moment, "event": "pruned", "seq": seq, "reason": "old"} for seq in range(118)
    ]
    (tmp_path / "long/logs").mkdir(parents=True)
    (tmp_path / "long/identity.json").write_text('{"id": "long"}')
    (tmp_path / "long/logs/checkpoints.jsonl").write_text("".join(json.dumps(save) + "\n" for save in saves))
    with served(tmp_path / "long") as client:
        first, last = page(client, "/run/long"), page(client, "/run/long?page=99")
        assert first.text.count(" pruned old ") == 50
        assert "1 to 50 of 118 saves" in first.text
        assert last.text.count(" pruned old ") == 18
        assert "101 to 118 of 118 saves" in last.text
        jumped = page(client, "/run/long?step=21").text
        assert "00000010 20 " in jumped
        assert "101 to 118 of 118 saves" in jumped
        assert "1 to 50 of 118 saves" in page(client, "/run/long?step=136").text, "it is the last of that page"
        assert client.get("/run/long?page=x").status_code == 400


def test_D36_a_page_follows_its_run_and_says_when_nothing_has_changed(runs: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(runs / "plain", tmp_path / "plain", symlinks=True))
    with served(root) as client:
        answer = client.get("/api/run/plain")
        again = client.get("/api/run/plain", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.text) == (304, "")


def test_D36_a_bucket_of_runs_is_shown_as_a_folder_is(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.variables().items():
        monkeypatch.setenv(name, value)
    root = "s3://tests/serve-pages"
    train(f"{root}/one", {100: 0.5, 200: 0.1})
    train(f"{root}/two", {100: 0.4}, finished=False)
    with served(root) as client:
        text = page(client, "/").text
        assert "one finished 200" in text
        assert "two unfinished 100" in text
        assert "durable kept: latest, best" in page(client, "/run/one").text
        assert "1 tensor changed" in page(client, "/diff?a=one@100&b=one@200").text
        assert page(client, "/run/one/00000001?tensors=0.weight").text.count("float32") == 1
    assert EVIL not in text
