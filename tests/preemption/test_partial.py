"""Partial checkpoints: marked, listed, taken only by who asks, and never in place of a complete one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from asyncckpt import AsyncCheckpointer, RetentionPolicy, load
from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointNotFoundError, IncompatibleState
from asyncckpt.format.record import Checkpoint, ObjectRef
from asyncckpt.preemption.speed import Speed
from asyncckpt.retention import plan

from ..checkpointer.trainings import Toy, Training, steps
from .conftest import Make


def partial(ckpt: AsyncCheckpointer, step: int, seconds: float = 1.0) -> Any:
    """An emergency save with time for the model alone."""
    sizes = ckpt._saver.sizes()
    share = sizes["model"] if sizes.get("optimizer") else sum(sizes.values())
    ckpt._stopping._speedometer._recent.extend([Speed(1.3 * (share + sizes["rng"]) / seconds)] * 4)
    return ckpt.save(step, emergency=True, deadline=seconds).wait()


def trained(training: Training, count: int) -> None:
    for _ in range(count):
        training.step()


class Big(Training):
    """One whose random state is light beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Linear(512, 512)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def step(self) -> None:
        self.model(torch.ones(4, 512)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def parts(training: Training) -> dict[str, object]:
    return {"model": training.model, "optimizer": training.optimizer}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run with a complete checkpoint of step 1 and a partial one of step 2, whose weights lie beside it."""
    training = Big()
    with AsyncCheckpointer(tmp_path / "run", **parts(training)) as ckpt:
        trained(training, 1)
        ckpt.save(1).wait()
        trained(training, 1)
        info = partial(ckpt, 2)
        assert info.partial
    torch.save(training.model.state_dict(), tmp_path / "weights")
    return tmp_path / "run"


def weights(root: Path) -> torch.Tensor:
    found: torch.Tensor = torch.load(root.parent / "weights")["weight"]
    return found


def test_resume_takes_the_newest_complete_one(root: Path) -> None:
    training = Big()
    with AsyncCheckpointer(root, **parts(training)) as ckpt:
        assert [(info.step, info.partial) for info in ckpt.checkpoints()] == [(1, False), (2, True)]
        assert ckpt.latest().step == 1
        assert ckpt.resume().step == 1
        assert not torch.equal(training.model.weight, weights(root))


def test_a_partial_one_is_taken_where_that_is_allowed_and_the_rest_stays_as_it_is(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = Big()
    with AsyncCheckpointer(root, **parts(training)) as ckpt:
        assert ckpt.resume(allow_partial=True).step == 2
        assert torch.equal(training.model.weight, weights(root))
        assert training.optimizer.state_dict()["state"] == {}
        assert "it holds no optimizer" in caplog.text
        trained(training, 1)
        ckpt.save(3).wait()
    with AsyncCheckpointer(root, **parts(Big())) as again:
        assert again.resume(allow_partial=True).step == 3
        assert steps(again) == [1, 2, 3]
        assert [c.step for c in again._listing().candidates()] == [3, 1]  # what it went on from is partial


def test_parts_of_it_are_restored_by_name_and_by_no_other_way(root: Path) -> None:
    training = Big()
    with AsyncCheckpointer(root, **parts(training)) as ckpt:
        assert ckpt.restore().step == 1
        assert ckpt.restore("00000002", only=("model",)).step == 2
        assert torch.equal(training.model.weight, weights(root))
        with pytest.raises(IncompatibleState, match="step 2 is partial: it holds no optimizer"):
            ckpt.restore("00000002")
        with pytest.raises(IncompatibleState, match="step 2 is partial: it holds no optimizer"):
            ckpt.restore(2, only=("optimizer",))
        with pytest.raises(IncompatibleState, match=r"step 2 is partial.*resume\(allow_partial=True\)"):
            ckpt.resume(which=2)
    assert set(load(root, 2).state) == {"model", "rng"}
    assert load(root).info.step == 1


def test_where_there_are_partial_ones_only_nothing_begins_anew(tmp_path: Path) -> None:
    training = Big()
    trained(training, 1)
    with AsyncCheckpointer(tmp_path / "run", **parts(training)) as ckpt:
        assert partial(ckpt, 1).partial
        assert ckpt.latest() is None
        with pytest.raises(CheckpointNotFoundError):
            ckpt.restore()
    with AsyncCheckpointer(tmp_path / "run", **parts(Big())) as ckpt:
        with pytest.raises(IncompatibleState, match=r"only=\(\"model\",\)"):
            ckpt.resume()
        assert ckpt.resume(allow_partial=True).step == 1


def test_retention_never_lets_one_replace_or_evict_a_complete_one(root: Path) -> None:
    training = Big()
    keep = RetentionPolicy(last=1)
    with AsyncCheckpointer(root, **parts(training), keep=keep) as ckpt:
        ckpt.resume()
        trained(training, 1)
        assert partial(ckpt, 1).partial  # of the step of the complete one
        ckpt.wait()
        assert [kept.step for kept in ckpt.prune(dry_run=True).kept] == [1, 2, 1]
        ckpt.prune()
        assert [(info.step, info.partial) for info in ckpt.checkpoints()] == [(1, False), (2, True), (1, True)]
        trained(training, 1)
        ckpt.save(4).wait()
        ckpt.wait()
        assert [(info.step, info.partial) for info in ckpt.checkpoints()] == [(4, False)]


@pytest.mark.parametrize("policy", [None, RetentionPolicy(last=1), RetentionPolicy(every_steps=5)], ids=str)
def test_one_of_the_same_step_replaces_no_complete_one_and_is_replaced_by_it(policy: RetentionPolicy | None) -> None:
    whole = Checkpoint(1, 5, None, 1, None, 0, {}, ObjectRef("data/1/manifest.json", 1, ""), ())
    part = replace(whole, seq=2, partial=("optimizer",))
    assert plan(policy, [whole], newest=part).removed == ()
    found = plan(policy, [whole, part], newest=replace(whole, seq=3))
    assert [(gone.seq, gone.rule) for gone in found.removed] == [(1, "replaced"), (2, "replaced")]


def test_one_is_never_the_best(make: Make) -> None:
    training = Big()
    trained(training, 1)
    ckpt = make(**parts(training), monitor=("loss", "min"))
    ckpt.save(1, metrics={"loss": 2.0}).wait()
    sizes = ckpt._saver.sizes()
    ckpt._stopping._speedometer._recent.extend([Speed((sizes["model"] + sizes["rng"]) / 40)] * 4)
    assert ckpt.save(2, metrics={"loss": 1.0}, emergency=True, deadline=60).wait().partial  # all would take 120 s
    assert ckpt.best().step == 1


def test_the_command_line_says_so(root: Path) -> None:
    run = CliRunner()
    listed = run.invoke(app, ["ls", str(root)]).output
    assert [line.split()[-1] for line in listed.splitlines()[1:]] == ["latest", "partial"]
    shown = run.invoke(app, ["show", f"{root}@2"]).output
    assert ["state", "partial"] in [line.split() for line in shown.splitlines()]
    assert ["lacks", "optimizer"] in [line.split() for line in shown.splitlines()]
    told = json.loads(run.invoke(app, ["show", f"{root}@2", "--json"]).output)
    assert (told["partial"], told["lacks"]) == (True, ["optimizer"])
    assert json.loads(run.invoke(app, ["show", f"{root}@1", "--json"]).output)["lacks"] == []
    assert run.invoke(app, ["verify", str(root)]).exit_code == 0


def test_a_light_state_is_never_left_out(make: Make) -> None:
    ckpt = make(model=Toy())
    assert ckpt.save(1, emergency=True, deadline=60).wait().partial is False
