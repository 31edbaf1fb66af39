"""``asyncckpt serve`` as a person starts it: real processes and sockets."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

PROGRAM = [sys.executable, "-m", "asyncckpt", "serve"]


def refused(*arguments: object) -> tuple[int, str]:
    done = subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_B19_it_says_where_it_is_listens_there_alone_and_ends_with_ctrl_c(runs: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, str(runs), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    url = line.split(" is shown at ")[1].split()[0]
    assert url.startswith("http://127.0.0.1:")
    assert "plain" in httpx2.get(url, trust_env=False).text
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said) == (0, "")


def test_a_port_that_is_taken_is_a_sentence(runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = refused(runs, "--port", taken.getsockname()[1])
    assert status == 4
    assert "use another --port (0 for a free one)" in said
    assert len(said.splitlines()) == 1


def test_a_root_without_runs_is_a_sentence(tmp_path: Path) -> None:
    status, said = refused(tmp_path, "--port", 0)
    assert status == 3
    assert "holds no run" in said
    assert refused(f"{tmp_path}@latest")[0] == 2


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "jinja2"])
def test_a_library_that_is_missing_is_named_with_its_extra(runs: Path, missing: str) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['asyncckpt', 'serve', {str(runs)!r}];"
        "from asyncckpt.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install 'asyncckpt[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_B19_neither_help_nor_the_server_imports_torch(runs: Path) -> None:
    script = (
        "import sys, asyncckpt.cli.serve; assert not {'starlette', 'jinja2', 'torch'} & set(sys.modules);"
        "from asyncckpt.serve import server; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
