"""A local tier before a real S3 server, from a thread and from a process."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import torch
from torch import nn

from asyncckpt.events import Restored, TierDurable, TierFailed
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.s3 import S3Storage
from asyncckpt.testing.s3server import S3Server

from ..checkpointer.conftest import Make
from ..checkpointer.trainings import Recorder
from .test_mirror_training import flip, sound

pytestmark = pytest.mark.executors


def test_what_is_in_the_bucket_is_read_from_the_disk_and_from_the_bucket_where_that_is_damaged(
    make: Make, tmp_path: Path, s3: S3Server, recorder: Recorder
) -> None:
    url, nearer = f"s3://tests/{secrets.token_hex(8)}/run", tmp_path / "local"

    def root() -> S3Storage:
        return S3Storage(url, s3.options(asyncckpt={"part_size": 5 << 20}))

    model = nn.Linear(1500, 1500)  # 9 MB
    with make(root(), local=nearer, model=model) as ckpt:
        for step in (1, 2):
            model.weight.data.fill_(step)
            assert ckpt.save(step).wait().step == step
    with make(root(), local=nearer, model=model) as ckpt:
        ckpt.resume()
        model.weight.data.fill_(3)
        ckpt.save(3).wait()
    assert recorder.of(TierFailed) == []
    assert sound(LocalStorage(nearer)) == [2, 3]
    for tier in ("local", "home"):
        found = nn.Linear(1500, 1500)
        with make(root(), local=nearer, model=found) as ckpt:
            assert ckpt.resume().step == 3
        assert torch.equal(found.weight, model.weight)
        assert recorder.of(Restored)[-1].tier == tier
        if tier == "local":
            flip(LocalStorage(nearer), 3)


def test_what_the_bucket_did_not_get_is_brought_there(
    make: Make, tmp_path: Path, s3: S3Server, recorder: Recorder
) -> None:
    url, nearer = f"s3://tests/{secrets.token_hex(8)}/run", tmp_path / "local"
    model = nn.Linear(1500, 1500)
    with make(S3Storage(url, s3.options()), local=nearer, model=model) as ckpt:
        model.weight.data.fill_(1)
        ckpt.save(1).wait()
        speedometer = ckpt._stopping._speedometer
        speedometer._recent[0] = type(speedometer._recent[0])(1e-3)
        model.weight.data.fill_(2)
        assert ckpt.save(2, emergency=True, deadline=60).wait(tier="local").step == 2
    assert [info.step for info in make(S3Storage(url, s3.options()), model=model).checkpoints()] == [1]
    found = nn.Linear(1500, 1500)
    with make(S3Storage(url, s3.options()), local=nearer, model=found) as ckpt:
        assert ckpt.resume().step == 2
        assert [info.step for info in ckpt.checkpoints()] == [1, 2]
    assert torch.equal(found.weight, model.weight)
    assert [(event.tier, event.step) for event in recorder.of(TierDurable)][-1] == ("home", 2)
