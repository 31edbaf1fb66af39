"""Real processes that get a real signal and are killed when their grace is over, on a store of known bandwidth."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer, CheckpointInfo

pytestmark = pytest.mark.kills

MEGA = 1 << 20


def _preempted(root: Path, rate: float, grace: float) -> tuple[int, float, str]:
    """Its exit status, how long it took to leave, and what it logged; killed once its grace is over."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.preemption.graced", str(root), str(rate), str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        _, errors = process.communicate(timeout=grace)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    return process.returncode, time.monotonic() - began, errors


def _listed(root: Path) -> list[CheckpointInfo]:
    with AsyncCheckpointer(root) as reader:
        return reader.checkpoints()


def test_thirty_seconds_are_enough_for_everything(tmp_path: Path) -> None:
    status, _, said = _preempted(tmp_path / "run", 8 * MEGA, 30)
    assert status == 143, said
    first, last = _listed(tmp_path / "run")
    assert (first.step, last.partial, last.size > first.size * 0.9) == (1, False, True)
    assert f"after step {last.step}: the whole state is saved. the whole state takes" in said
    assert "in time" in said
    assert f"preempted after step {last.step}: durable" in said


def test_five_seconds_are_enough_for_the_weights(tmp_path: Path) -> None:
    """4 MB and 8 MB at 2 MB/s: what is left of five seconds is no more than four."""
    status, _, said = _preempted(tmp_path / "run", 2 * MEGA, 5)
    assert status == 143, said
    first, last = _listed(tmp_path / "run")
    assert (first.partial, last.partial) == (False, True)
    assert "the whole state takes" in said
    assert "too long; a part of it, without optimizer, takes" in said
    assert f"preempted after step {last.step}: partial" in said
    with AsyncCheckpointer(tmp_path / "run") as reader:
        assert reader.latest() == first


def test_half_a_second_is_enough_for_nothing_and_what_was_there_is_sound(tmp_path: Path) -> None:
    status, _, said = _preempted(tmp_path / "run", 2 * MEGA, 0.5)
    assert status in (143, -signal.SIGKILL), said  # half a second is little for an interpreter to end in
    (first,) = _listed(tmp_path / "run")
    assert (first.step, first.partial) == (1, False)
    if status == 143:
        assert "nothing is in time; what takes least is tried" in said
        assert "late" in said


def test_half_a_second_is_enough_for_a_small_state_on_a_quick_store(tmp_path: Path) -> None:
    """Or, on a machine that has much else to do, for less: what is said of the end is what is there."""
    status, _, said = _preempted(tmp_path / "run", 512 * MEGA, 0.5)
    assert status in (143, -signal.SIGKILL), said
    first, *more = [(info.step, info.partial) for info in _listed(tmp_path / "run")]
    assert first == (1, False)
    ended = re.search(r"preempted after step (\d+): (\w+)", said)
    if ended is None or ended[2] == "late":
        assert status == -signal.SIGKILL or ended is not None
    else:
        assert more == [(int(ended[1]), {"durable": False, "partial": True}[ended[2]])]
