"""What follows from what was gathered of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.report import gather
from asyncckpt.serve.view import View


def test_a_run_that_a_training_has_open_and_that_has_not_saved_for_long_is_late(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path / "run", model=torch.nn.Linear(2, 2)) as ckpt:
        for step in (1, 2, 3):
            ckpt.save(step).wait()
        view = View("run", gather(tmp_path / "run"))
        assert view.latest is not None
        assert view.late(view.latest + 0.5) is None
        assert view.late(view.latest + 1000) == pytest.approx(1000)
    closed = View("run", gather(tmp_path / "run"))
    assert closed.late(view.latest + 1000) is None


def test_what_is_usual_takes_more_than_two_saves(tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path / "run", model=torch.nn.Linear(2, 2)) as ckpt:
        ckpt.save(1).wait()
        ckpt.save(2).wait()
        view = View("run", gather(tmp_path / "run"))
    assert view.usual is None
    assert view.late(1e12) is None
