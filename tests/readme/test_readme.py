"""The README and the pages of docs are true: every Python block runs as pasted, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import asyncckpt
from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.testing.s3server import S3Server

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RUNS = ROOT / "docs" / "runs.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "MIGRATING.md"]

PATIENCE = 120.0


def blocks(*pages: Path) -> list[str]:
    text = "\n".join(page.read_text() for page in pages)
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> dict[str, str]:
    """The environment in which ``s3://bucket`` is one of a real server."""
    s3.make_bucket("bucket")
    return os.environ | s3.variables()


ONE_AFTER_THE_OTHER = """
import runpy, sys
for block in sys.argv[1:]:
    runpy.run_path(block, run_name="__main__")
"""


def test_every_python_block_runs_as_pasted(tmp_path: Path, bucket: dict[str, str]) -> None:
    """Those of a page in one process, which imports torch once."""
    for page in PAGES:
        names = [f"{page.stem}{number}.py" for number, _ in enumerate(blocks(page))]
        for name, block in zip(names, blocks(page), strict=True):
            (tmp_path / name).write_text(block)
        command = [sys.executable, "-W", "error", "-c", ONE_AFTER_THE_OTHER, *names]
        subprocess.run(command, cwd=tmp_path, env=bucket, check=True, timeout=240)
    assert len(list(tmp_path.glob("*.py"))) >= 10
    assert (tmp_path / "runs/first/run.json").exists()


def plain(name: str) -> str:
    """A path without what differs from run to run."""
    name = re.sub(r"20\d{6}_\d{6}", "TIME", name)
    return re.sub(r"-i1-[0-9a-f]{8}|commits/\d{10}", lambda found: found[0][:4], name)


def test_the_tree_of_a_run_is_the_one_that_its_example_leaves(tmp_path: Path) -> None:
    """Every file is named, in the README every file and folder of the root; and nothing is named that is not there."""
    pytest.importorskip("matplotlib")
    (short,) = (block for block in blocks(README) if 'Run.open("runs/small"' in block)
    (block,) = (block for block in blocks(RUNS) if 'Run.open("runs/tiny"' in block)
    subprocess.run([sys.executable, "-W", "error", "-c", short + block], cwd=tmp_path, check=True, timeout=120)
    tree = README.read_text().partition("```\nruns/small/\n")[2].partition("```")[0]
    there = {path.name + "/" * path.is_dir() for path in (tmp_path / "runs/small").iterdir()}
    assert there == {line.split()[0] for line in tree.splitlines()}
    root = tmp_path / "runs/tiny"
    there = {
        plain(path.relative_to(root).as_posix()) for path in root.rglob("*") if path.is_symlink() or path.is_file()
    }
    tree = RUNS.read_text().partition("```\nruns/tiny/\n")[2].partition("```")[0]
    assert there == {plain(line.split()[0]) for line in tree.splitlines()}


def test_the_picture_is_there_and_small() -> None:
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text()):
        picture = (README.parent / name).read_bytes()
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(picture) < 60_000


def saved(url: str, options: dict[str, str]) -> int:
    """The step of the newest checkpoint; 0 before there is one."""
    try:
        return asyncckpt.load(url, storage_options=options).info.step
    except CheckpointNotFoundError:
        return 0


def test_the_training_in_a_bucket_is_ten_lines_and_goes_on_where_sigterm_ended_it(
    tmp_path: Path, s3: S3Server, bucket: dict[str, str]
) -> None:
    (block,) = (block for block in blocks(README) if "s3://" in block)
    assert len(block.splitlines()) == 10
    url = "s3://bucket/told-to-leave"
    endless = block.replace("s3://bucket/run", url).replace("1001", "10**9")
    with subprocess.Popen([sys.executable, "-W", "error", "-c", endless], cwd=tmp_path, env=bucket) as training:
        deadline = time.monotonic() + PATIENCE
        while not saved(url, s3.options()):
            assert training.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        training.send_signal(signal.SIGTERM)
        assert training.wait(PATIENCE) == 128 + signal.SIGTERM
    step = saved(url, s3.options())
    again = tmp_path / "elsewhere"
    again.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", endless.replace("10**9", str(step + 150)) + "print(state.step)"],
        cwd=again, env=bucket, check=True, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"{step}\n"
    assert saved(url, s3.options()) > step
    assert list(again.iterdir()) == []


def test_every_file_and_folder_it_names_exists() -> None:
    text = "\n".join(page.read_text() for page in LINKED)
    named = set(re.findall(r"`((?:asyncckpt|tests|benchmarks|examples)/[\w./]*)`", text))
    modules = set(re.findall(r"`((?:[a-z]+/)?\w+\.py)`", text)) - named
    named |= {f"asyncckpt/{name}" for name in modules}
    assert len(named) > 12
    assert [name for name in sorted(named) if not (README.parent / name).exists()] == []


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are shown on the pages of a repository."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.stem)
def test_every_link_leads_somewhere_and_every_page_is_linked(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text())
    for name, anchor in links:
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), anchor
    if page != README:
        assert f"({page.relative_to(ROOT).as_posix()})" in README.read_text()
