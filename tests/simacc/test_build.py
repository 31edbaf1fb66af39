"""Building the extension: once, alone, whole or not at all, and clear about what is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

IMPORT = "from asyncckpt.testing import simacc; print(simacc.stats())"

# Stands for a compiler: says that it was called, waits until it may end, and copies a library that works.
COMPILER = """#!/bin/sh
echo called >> "$LOG"
while [ -e "$HOLD" ]; do sleep 0.01; done
[ -n "$LIBRARY" ] || { echo "no such header" >&2; exit 1; }
for last; do true; done
cp "$LIBRARY" "$last"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    return tmp_path


def environment(place: Path, **changes: str) -> dict[str, str]:
    from asyncckpt.testing.simacc import _C

    return (
        os.environ
        | {
            "ASYNCCKPT_SIMACC_CACHE": str(place / "cache"),
            "CXX": str(place / "compiler"),
            "LOG": str(place / "log"),
            "HOLD": str(place / "hold"),
            "LIBRARY": str(_C.__file__),
        }
        | changes
    )


def start(place: Path, **changes: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", IMPORT]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(place, **changes), stdout=pipe, stderr=pipe, text=True)


def called(place: Path) -> int:
    log = place / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def wait_for_compiler(place: Path) -> None:
    limit = time.monotonic() + 60
    while not called(place):
        assert time.monotonic() < limit, "no compiler was started"
        time.sleep(0.01)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_importing_the_package_of_tests_builds_nothing(place: Path) -> None:
    command = [sys.executable, "-c", "import asyncckpt.testing, sys; assert 'torch.sim' not in sys.modules"]
    subprocess.run(command, env=environment(place), check=True)
    assert not (place / "cache").exists()


def test_processes_that_come_at_once_build_once(place: Path) -> None:
    (place / "hold").touch()
    processes = [start(place) for _ in range(3)]
    wait_for_compiler(place)
    (place / "hold").unlink()
    assert [ended(process)[:2] for process in processes] == [(0, "{}\n")] * 3
    assert ended(start(place))[0] == 0
    assert called(place) == 1


def test_a_build_that_was_killed_hangs_nobody(place: Path) -> None:
    (place / "hold").touch()
    killed = start(place)
    wait_for_compiler(place)
    killed.send_signal(signal.SIGKILL)
    assert ended(killed)[0] == -signal.SIGKILL
    (place / "hold").unlink()
    assert ended(start(place))[0] == 0
    assert called(place) == 2
    assert sorted(path.name for path in (place / "cache").rglob("*") if path.is_file()) == ["_C.so", "lock"]


def test_a_build_that_failed_leaves_nothing_and_says_why(place: Path) -> None:
    code, _, err = ended(start(place, LIBRARY=""))
    assert code == 1
    assert "simacc could not be built. It is written for torch 2.13; this is" in err
    assert "no such header" in err
    assert [path.name for path in (place / "cache").rglob("*") if path.is_file()] == ["lock"]
    assert ended(start(place))[0] == 0


def test_a_missing_compiler_is_named(place: Path) -> None:
    code, _, err = ended(start(place, CXX="no-such-compiler"))
    assert code == 1
    assert "finds no C++ compiler (no-such-compiler): install one that knows C++20" in err


def test_the_sources_decide_what_is_built() -> None:
    from asyncckpt.testing.simacc import build

    before = build._fingerprint()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_FLAGS", (*build._FLAGS, "-DMORE"))
        assert build._fingerprint() != before
    assert build._fingerprint() == before


def test_the_process_ends_though_a_stream_is_held() -> None:
    script = (
        "import torch\n"
        "from asyncckpt.testing import simacc\n"
        "gate = simacc.hold(torch.accelerator.current_stream())\n"
        "x = torch.ones(4, device='sim')\n"
        "with torch.Stream(device='sim'):\n"
        "    [torch.ones(4000, device='sim') for _ in range(500)]\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
