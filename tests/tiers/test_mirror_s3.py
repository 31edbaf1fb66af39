"""A mirror on a real S3 server, from a thread and from a process."""

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
from .test_mirror_training import flip

pytestmark = pytest.mark.executors


def test_a_checkpoint_goes_up_in_parts_and_comes_back_when_the_disk_has_lost_it(
    make: Make, tmp_path: Path, s3: S3Server, recorder: Recorder
) -> None:
    url, root = f"s3://tests/{secrets.token_hex(8)}/mirror", tmp_path / "home"

    def mirror() -> S3Storage:
        return S3Storage(url, s3.options(asyncckpt={"part_size": 5 << 20}))

    model = nn.Linear(1500, 1500)  # 9 MB
    with make(root, mirror=mirror(), model=model) as ckpt:
        for step in (1, 2):
            model.weight.data.fill_(step)
            ckpt.save(step).wait()
    assert recorder.of(TierFailed) == []
    assert recorder.of(TierDurable)[-1].step == 2
    flip(LocalStorage(root), 2)
    found = nn.Linear(1500, 1500)
    with make(root, mirror=mirror(), model=found) as ckpt:
        assert ckpt.resume().step == 2
    assert torch.equal(found.weight, model.weight)
    assert torch.equal(found.bias, model.bias)
    assert recorder.of(Restored)[-1].tier == "mirror"
