"""A training with one of everything goes on in another process as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .whole import run


@pytest.mark.long
def test_a_training_split_over_three_processes_is_the_one_that_ran_straight(tmp_path: Path) -> None:
    def process(seed: int, until: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.training.whole", str(tmp_path), str(seed), str(until)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    # The second and third begin elsewhere: what they do can only come from the checkpoint.
    parts = [process(0, 4), process(7, 11), process(8, 12)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are rounded as in the processes
    straight = run(None, 0, 12)
    torch.set_num_threads(threads)
    assert [part["start"] for part in parts] == [0, 4, 11]
    assert [loss for part in parts for loss in part["losses"]] == straight["losses"]
    assert parts[-1]["digest"] == straight["digest"]
