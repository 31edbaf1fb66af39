"""How little a worker process needs to start: its imports are counted, since a time would be that of the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asyncckpt import RetentionPolicy
from asyncckpt.events import WorkerRuns
from asyncckpt.testing.slow import PATIENCE

from ..checkpointer.trainings import Recorder, Toy
from .conftest import Make, log_of

FEW = 340 if sys.version_info < (3, 12) else 350
"""Modules, the interpreter's own included. Those of the standard library that asyncio needs are most of them, and newer
ones (pathlib, the importer of archives) come in more pieces."""

HEAVY = (
    *("torch", "numpy", "safetensors", "fsspec", "s3fs", "aiobotocore", "botocore", "obstore", "uvloop"),
    *("prometheus_client", "click", "rich", "multiprocessing", "pytest", "hypothesis", "pkg_resources", "http"),
    *(
        "asyncckpt.checkpointer",
        "asyncckpt.construction",
        "asyncckpt.lifecycle",
        "asyncckpt.saves",
        "asyncckpt.restores",
    ),
    *("asyncckpt.staging", "asyncckpt.state", "asyncckpt.metrics", "asyncckpt.cli"),
    *("asyncckpt.distributed", "asyncckpt.preemption", "asyncckpt.storage.s3", "asyncckpt.storage.fsspec"),
)


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A root whose workers write every module that they import into their log."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    return tmp_path / "run"


def modules(root: Path) -> list[str]:
    """What was imported for `root`; the log ends before what a worker that still runs has not flushed."""
    lines = [line.rpartition("|")[2].strip() for line in log_of(root).split("import time:")[2:]]
    return [line.split()[0] for line in lines]


def test_P5_a_worker_imports_little_until_it_has_saved_and_pruned(
    make: Make, recorder: Recorder, imported: Path
) -> None:
    ckpt = make(imported, model=Toy(), keep=RetentionPolicy(last=1))
    ckpt.resume()
    for step in (1, 2):
        ckpt.save(step).wait(PATIENCE)
    ckpt.wait()
    assert len(recorder.of(WorkerRuns)) == 1
    found = modules(imported)
    assert "asyncckpt.worker.process.host" in found
    assert "asyncckpt.worker.commitlog.commit" in found
    assert [name for name in found if any(name == heavy or name.startswith(f"{heavy}.") for heavy in HEAVY)] == []
    assert len(found) <= FEW
