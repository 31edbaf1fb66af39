"""Every system of the benchmarks saves what it is given: a peer that saved less would be measured as faster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.installed import is_installed
from benchmarks.systems import BY_NAME, OWN, PACED, PEERS, PROCESS, THREAD

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", [OWN, BY_NAME, THREAD, PROCESS, PACED, *PEERS])
def test_what_a_system_saves_it_reads_back(name: str, tmp_path: Path) -> None:
    if not is_installed(name):  # peers are nothing that this project needs, and some run on few platforms
        pytest.skip(f"{name} is not installed: pip install -r benchmarks/peers.txt")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.driven", name, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
