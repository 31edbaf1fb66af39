"""A damage that shows while live memory is being filled: a resume goes further back, a restore has seen it before."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import CheckpointCorruptError, RestoreError, TransientError
from asyncckpt.events import Damaged, Restored, RestoreFailed
from asyncckpt.fetching.placing import Places
from asyncckpt.state.landing import SMALLEST
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.files import FailingFiles

from .conftest import Make
from .trainings import Recorder

WIDE = SMALLEST // 4


def made(value: float) -> nn.Module:
    """Three tensors that are read straight into place, and one that is too small for it."""
    model = nn.Module()
    for name, count in (("first", WIDE), ("second", WIDE), ("small", 8), ("third", WIDE)):
        model.register_parameter(name, nn.Parameter(torch.full((count,), value)))
    return model


def values(model: nn.Module) -> dict[str, list[float]]:
    """The different numbers in each tensor."""
    return {name: torch.unique(tensor).tolist() for name, tensor in model.named_parameters()}


def all_of(value: float) -> dict[str, list[float]]:
    return {name: [value] for name in ("first", "second", "small", "third")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 1, 2 and 3; every number in each is its step."""
    model = made(0.0)
    with AsyncCheckpointer(tmp_path / "run", model=model, executor="thread") as ckpt:
        for step in (1, 2, 3):
            with torch.no_grad():
                for tensor in model.parameters():
                    tensor.fill_(step)
            ckpt.save(step).wait()
    return tmp_path / "run"


def flip(root: Path, step: int) -> None:
    """Change a bit in the last tensor that is read into place."""
    (pack,) = root.glob(f"data/*-step-{step}-*/*.safetensors")
    data = bytearray(pack.read_bytes())
    third = Tensor.numpy(torch.full((WIDE,), float(step))).tobytes()
    data[data.rindex(third) + 4] ^= 1
    pack.write_bytes(data)


def test_a_resume_reads_everything_once(make: Make, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Places, "check")
    model = made(-1.0)
    state = make(root, model=model).resume()
    assert state is not None
    assert state.step == 3
    assert values(model) == all_of(3.0)


def test_a_resume_replaces_all_that_a_damaged_checkpoint_has_changed(
    make: Make, root: Path, recorder: Recorder
) -> None:
    flip(root, 3)
    model = made(-1.0)
    ckpt = make(root, model=model)
    state = ckpt.resume()
    assert state is not None
    assert state.step == 2
    assert values(model) == all_of(2.0)
    (event,) = recorder.of(Damaged)
    assert (event.step, event.kind) == (3, "content")
    assert "third does not match its digest" in event.reason
    assert [event.step for event in recorder.of(Restored)] == [2]
    ckpt.save(4).wait()


def test_a_resume_that_ends_halfway_says_so_at_every_save_until_a_whole_checkpoint_is_there(
    make: Make, root: Path, recorder: Recorder
) -> None:
    sound = {path: path.read_bytes() for path in root.glob("data/*-step-2-*/*.safetensors")}
    for step in (1, 2, 3):
        flip(root, step)
    model = made(-1.0)
    ckpt = make(root, model=model, overwrite=True)
    with pytest.raises(CheckpointCorruptError, match="all 3 checkpoints of this run are damaged"):
        ckpt.resume()
    assert recorder.of(RestoreFailed)
    assert not recorder.of(Restored)
    for _ in range(2):
        with pytest.raises(RestoreError, match=r"of step 1 ended halfway, .* resume\(\) or restore\(\) a sound one"):
            ckpt.save(4)
    for path, data in sound.items():
        path.write_bytes(data)
    assert ckpt.restore(2).step == 2
    assert values(model) == all_of(2.0)
    ckpt.save(4).wait()


@pytest.mark.parametrize("which", ["latest", 3])
def test_a_restore_of_what_is_damaged_changes_nothing(make: Make, root: Path, which: str | int) -> None:
    flip(root, 3)
    model = made(-1.0)
    ckpt = make(root, model=model)
    with pytest.raises(CheckpointCorruptError, match="third does not match its digest"):
        ckpt.restore(which)
    assert values(model) == all_of(-1.0)


def test_a_failure_of_the_moment_never_makes_a_resume_step_back(make: Make, root: Path, recorder: Recorder) -> None:
    # The header and the small tensor are read before; the second of three is read into its place then.
    files = FailingFiles("read", errno.EAGAIN, pattern="*.safetensors", nth=4)
    model = made(-1.0)
    ckpt = make(LocalStorage(root, files=files), model=model, overwrite=True)
    with pytest.raises(TransientError, match="Resource temporarily unavailable"):
        ckpt.resume()
    assert not recorder.of(Damaged)
    with pytest.raises(RestoreError, match="of step 3 ended halfway"):
        ckpt.save(4)
    state = ckpt.resume()
    assert state is not None
    assert state.step == 3
    assert values(model) == all_of(3.0)
    ckpt.save(4).wait()
