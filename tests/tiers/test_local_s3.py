"""A local tier before a real S3 server, from a thread and from a process."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from asyncckpt.errors import SaveSuperseded
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


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that tests may stop."""
    with S3Server(tmp_path_factory.mktemp("own")) as server:
        server.make_bucket("tests")
        yield server


def test_a_frozen_server_delays_no_local_commit_and_gets_the_newest_when_it_goes_on(
    make: Make, tmp_path: Path, own: S3Server, recorder: Recorder
) -> None:
    url, nearer = f"s3://tests/{secrets.token_hex(8)}/run", tmp_path / "local"
    model = nn.Linear(1500, 1500)
    options = own.options(asyncckpt={"part_size": 5 << 20})
    with make(S3Storage(url, options), local=nearer, model=model, generations=1) as ckpt:
        ckpt.save(1).wait()
        own.freeze()
        try:
            handles = []
            for step in range(2, 7):
                model.weight.data.fill_(step)
                handles.append(ckpt.save(step, on_busy="coalesce"))
                assert handles[-1].wait(tier="local").step == step
            for handle in handles[1:-1]:
                with pytest.raises(SaveSuperseded, match="is on the local tier only"):
                    handle.wait()
            assert not handles[-1].done()
        finally:
            own.thaw()
        assert handles[-1].wait().step == 6
    found = nn.Linear(1500, 1500)
    with make(S3Storage(url, own.options()), model=found) as ckpt:
        assert ckpt.resume().step == 6
    assert torch.equal(found.weight, torch.full((1500, 1500), 6.0))
    assert recorder.of(TierFailed) == []


_TRAINER = """
import sys
from torch import nn
from asyncckpt import AsyncCheckpointer
from asyncckpt.storage.s3 import S3Storage

url, options, nearer, executor = sys.argv[1], eval(sys.argv[2]), sys.argv[3], sys.argv[4]
model = nn.Linear(1500, 1500)
ckpt = AsyncCheckpointer(S3Storage(url, options), local=nearer, model=model, executor=executor, generations=1)
ckpt.resume()
for step in range(1, 100):
    model.weight.data.fill_(step)
    handle = ckpt.save(step, on_busy="coalesce")
    handle.wait(tier="local")
    if step == 1:
        handle.wait()
    print(step, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.kills
def test_a_training_that_is_killed_beside_a_frozen_server_goes_on_from_the_disk(
    make: Make, tmp_path: Path, own: S3Server, recorder: Recorder, executor: str
) -> None:
    url, nearer = f"s3://tests/{secrets.token_hex(8)}/run", tmp_path / "local"
    command = [sys.executable, "-c", _TRAINER, url, repr(own.options()), str(nearer), executor]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        try:
            for step in range(1, 5):
                assert trainer.stdout.readline() == f"{step}\n"
                if step == 1:
                    own.freeze()
                trainer.stdin.write("\n")
                trainer.stdin.flush()
            assert trainer.stdout.readline() == "5\n"
        finally:
            trainer.kill()
            own.thaw()
    found = nn.Linear(1500, 1500)
    with make(S3Storage(url, own.options()), local=nearer, model=found) as ckpt:
        assert ckpt.resume().step == 5
        assert [ckpt.checkpoints()[at].step for at in (0, -1)] == [1, 5]
    assert torch.equal(found.weight, torch.full((1500, 1500), 5.0))
    assert recorder.of(Restored)[-1].tier == "local"
