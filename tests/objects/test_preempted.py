"""Preemptions of a training whose root is a bucket are counted there, by whichever process is the next."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer, Preempted, Preemption
from asyncckpt.testing.s3server import S3Server

from ..checkpointer.trainings import Toy
from .conftest import Backend


@pytest.fixture(autouse=True)
def _runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))


def preempted(s3: S3Server, url: str, backend: Backend, step: int) -> int:
    """The status of a start that goes on from the step before, and is preempted after `step`."""
    with AsyncCheckpointer(
        url, model=Toy(), preemption=Preemption(max_preemptions=2), storage_options=s3.options(backend=backend)
    ) as ckpt:
        state = ckpt.resume()
        assert (state.step if state else 0) == step - 1
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted) as raised:
            ckpt.step(step)
    assert isinstance(raised.value.code, int)
    return raised.value.code


def test_the_third_preemption_of_two_is_the_last(s3: S3Server, url: str, backend: Backend) -> None:
    assert [preempted(s3, url, backend, step) for step in (1, 2, 3)] == [143, 143, 1]
    assert "preemptions" in s3.stored(url)[0]
