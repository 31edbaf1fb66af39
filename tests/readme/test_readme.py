"""The README is true: every Python block of it runs as pasted, in order, in an empty folder."""

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
from asyncckpt.testing.s3server import KEY, SECRET, S3Server

README = Path(__file__).parents[2] / "README.md"


PATIENCE = 60.0


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> dict[str, str]:
    """The environment in which ``s3://bucket`` is one of a real server."""
    s3.make_bucket("bucket")
    return {**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL_S3": s3.endpoint}


def test_every_python_block_runs_as_pasted(tmp_path: Path, bucket: dict[str, str]) -> None:
    assert len(blocks()) >= 4
    for number, block in enumerate(blocks()):
        script = tmp_path / f"block{number}.py"
        script.write_text(block)
        subprocess.run([sys.executable, "-W", "error", script.name], cwd=tmp_path, env=bucket, check=True, timeout=120)
    assert (tmp_path / "runs/first/run.json").exists()


def saved(url: str, options: dict[str, str]) -> int:
    """The step of the newest checkpoint; 0 before there is one."""
    try:
        return asyncckpt.load(url, storage_options=options).info.step
    except CheckpointNotFoundError:
        return 0


def test_the_training_in_a_bucket_is_ten_lines_and_goes_on_where_sigterm_ended_it(
    tmp_path: Path, s3: S3Server, bucket: dict[str, str]
) -> None:
    (block,) = (block for block in blocks() if "s3://" in block)
    assert len(block.splitlines()) == 10
    url = "s3://bucket/told-to-leave"
    endless = block.replace("s3://bucket/run", url).replace("1001", "10**9")
    with subprocess.Popen([sys.executable, "-W", "error", "-c", endless], cwd=tmp_path, env=bucket) as training:
        deadline = time.monotonic() + PATIENCE
        while not saved(url, s3.options()):
            assert training.poll() is None
            assert time.monotonic() < deadline
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
    text = README.read_text()
    named = set(re.findall(r"`((?:asyncckpt|tests|benchmarks)/[\w./]*)`", text))
    named |= {f"asyncckpt/{name}" for name in re.findall(r"`((?:[a-z]+/)?\w+\.py)`", text) if name[:10] != "asyncckpt/"}
    assert len(named) > 12
    assert [name for name in sorted(named) if not (README.parent / name).exists()] == []
