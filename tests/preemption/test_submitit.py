"""E33 with submitit itself: its handler puts the job back once the save is durable, and the job goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

submitit = pytest.importorskip("submitit")

pytestmark = pytest.mark.kills


@pytest.mark.long
def test_E33_a_job_of_submitits_comes_back_and_goes_on_from_what_it_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .submitted import Training

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for variable in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(variable, raising=False)
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    job: Any = executor.submit(Training(), str(tmp_path / "run"), 3, "auto")
    first, weights = job.result()
    assert first == 4
    assert "put back with step 3 saved" in job.stdout()
    assert "Requeued job" in job.stdout()
    assert weights == Training()(str(tmp_path / "twin"), None, "none")[1]
