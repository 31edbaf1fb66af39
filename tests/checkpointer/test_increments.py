"""Increments as users have them: frozen weights, adapters and averages are recognised by their bytes alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import asyncckpt
from asyncckpt import AsyncCheckpointer, RetentionPolicy, guarded
from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.events import Damaged, Durable

from .conftest import Make
from .test_resume import flip, pack_of
from .trainings import Recorder, Toy, saved

pytestmark = pytest.mark.executors


class Adapted(nn.Module):
    """A frozen base with a small adapter, as LoRA has it: about one hundredth is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(256, 256).requires_grad_(False)
        self.down = nn.Linear(256, 1, bias=False)


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def adapted() -> tuple[Adapted, torch.optim.Optimizer]:
    model = Adapted()
    return model, torch.optim.SGD(model.down.parameters(), lr=0.1, momentum=0.9)


def test_a_shared_pack_stays_one_commit_longer_than_the_last_that_names_it(tmp_path: Path, make: Make) -> None:
    root, toy = tmp_path / "run", Toy(1)
    ckpt = make(root, model=toy, keep=RetentionPolicy(last=1))
    ckpt.save(1).wait()
    shared = pack_of(root, 1)
    for step, weight, is_there in ((2, 1, True), (3, 2, True), (4, 3, False)):
        toy.value = weight
        ckpt.save(step).wait()
        ckpt.wait()  # until step 4 is committed, somebody may read step 2 by the head before
        assert shared.exists() == is_there


@pytest.mark.parametrize("wrap", [False, True])
def test_a_frozen_base_is_written_once(make: Make, recorder: Recorder, wrap: bool) -> None:
    model, optimizer = adapted()
    ckpt = make(model=guarded(model) if wrap else model, optimizer=optimizer)
    for step in (1, 2, 3):
        train(model, optimizer)
        ckpt.save(step).wait()
    first, *others = recorder.of(Durable)
    header = 4096
    assert first.written > first.bytes
    assert [event.written for event in others] == [header + 2 * 256 * 4] * 2
    assert others[0].written - header < 0.011 * first.bytes
    assert len({event.bytes for event in (first, *others)}) == 1


def test_after_a_resume_the_base_is_still_not_written_again(make: Make, tmp_path: Path, recorder: Recorder) -> None:
    model, optimizer = adapted()
    with make(tmp_path / "run", model=model, optimizer=optimizer) as ckpt:
        train(model, optimizer)
        ckpt.save(1).wait()
    expected = copy.deepcopy(model.state_dict())
    model, optimizer = adapted()
    ckpt = make(tmp_path / "run", model=model, optimizer=optimizer)
    ckpt.resume()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
    train(model, optimizer)
    ckpt.save(2).wait()
    assert recorder.of(Durable)[-1].written < 0.1 * recorder.of(Durable)[0].written


def test_an_average_that_is_not_due_yet_is_not_written(make: Make, recorder: Recorder) -> None:
    model = nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = AveragedModel(model)
    ckpt = make(model=model, optimizer=optimizer, extra={"ema": average})
    for step in range(1, 5):
        train(model, optimizer)
        if step % 2 == 0:
            average.update_parameters(model)
        ckpt.save(step).wait()
    written = [event.written / recorder.of(Durable)[0].written for event in recorder.of(Durable)]
    assert written == pytest.approx([1, 1, 0.55, 1], abs=0.05)


def test_every_checkpoint_of_a_chain_loads_as_it_was_saved(make: Make, tmp_path: Path) -> None:
    model, optimizer = adapted()
    ckpt = make(tmp_path / "run", model=model, optimizer=optimizer, keep=RetentionPolicy(last=3))
    states = {}
    for step in range(1, 9):
        train(model, optimizer)
        if step == 5:
            model.base.weight.data += 1  # EAGER, since no optimizer has it
        ckpt.save(step).wait()
        states[step] = copy.deepcopy(model.state_dict())
    for step in (6, 7, 8):
        found = asyncckpt.load(tmp_path / "run", step).state["model"]
        assert all(torch.equal(found[name], tensor) for name, tensor in states[step].items())
    ckpt.close()
    assert sorted(p.parent.name[:8] for p in tmp_path.glob("run/data/*/*.safetensors")) == [
        "00000005",
        "00000006",
        "00000007",
        "00000008",
    ]


def test_a_pack_of_an_increment_is_a_safetensors_file(make: Make, tmp_path: Path) -> None:
    model, optimizer = adapted()
    ckpt = make(tmp_path / "run", model=model, optimizer=optimizer)
    for step in (1, 2):
        train(model, optimizer)
        ckpt.save(step).wait()
    found = load_file(pack_of(tmp_path / "run", 2))
    assert found.keys() == {"model.down.weight", "optimizer.state.0.momentum_buffer"}
    assert torch.equal(found["model.down.weight"], model.down.weight)


def test_damage_of_a_shared_pack_is_damage_of_all_that_share_it_and_the_next_save_is_full(
    make: Make, tmp_path: Path, recorder: Recorder
) -> None:
    root = tmp_path / "run"
    toy, other = Toy(1), Toy(1)
    with make(root, model={"a": toy, "b": other}) as ckpt:
        ckpt.save(1).wait()
        toy.value = other.value = 2
        ckpt.save(2).wait()
        toy.value = 3
        ckpt.save(3).wait()
    flip(pack_of(root, 2))  # the last tensor in it: model.b, which step 3 shares
    for step in (2, 3):
        with pytest.raises(CheckpointCorruptError, match=r"model\.b"):
            asyncckpt.load(root, step)
    ckpt = make(root, model={"a": toy, "b": other})
    assert ckpt.resume().step == 1
    assert [event.step for event in recorder.of(Damaged)] == [3, 2]
    ckpt.save(4).wait()
    assert recorder.of(Durable)[-1].written > recorder.of(Durable)[-1].bytes


def test_an_unreadable_base_does_not_stop_saving(make: Make, tmp_path: Path) -> None:
    model, optimizer = adapted()
    ckpt = make(tmp_path / "run", model=model, optimizer=optimizer)
    ckpt.save(1).wait()
    pack_of(tmp_path / "run", 1).unlink()
    train(model, optimizer)
    assert ckpt.save(2).wait().step == 2, "what this incarnation wrote is not read again at every save"


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Two checkpoints, of which the second shares most of the first."""
    model, optimizer = adapted()
    with AsyncCheckpointer(tmp_path / "run", model=model, optimizer=optimizer) as ckpt:
        for step in (1, 2):
            train(model, optimizer)
            ckpt.save(step).wait()
    return tmp_path / "run"


def test_show_says_what_a_checkpoint_shares(chain: Path) -> None:
    said = CliRunner().invoke(app, ["show", f"{chain}@2"], catch_exceptions=False).output
    assert "of 00000001" in said
    assert "2.0 KiB" in said
    assert "257.0 KiB with older checkpoints" in said
    found = json.loads(CliRunner().invoke(app, ["show", "--json", f"{chain}@2"], catch_exceptions=False).output)
    assert found["shared"] == 257 * 1024
    assert [pack["own"] for pack in found["packs"]] == [True, False]


def test_verify_finds_damage_in_what_is_shared(chain: Path) -> None:
    assert CliRunner().invoke(app, ["verify", str(chain)]).exit_code == 0
    flip(pack_of(chain, 1), 4096)  # of the base, which comes first
    said = CliRunner().invoke(app, ["verify", str(chain)])
    assert said.exit_code == 1
    assert said.output.count("damaged") == 2


def test_a_state_that_changes_whole_is_one_pack_for_each_save(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1, 2, 3)
    assert len(list(tmp_path.glob("run/data/*/*.safetensors"))) == 3
