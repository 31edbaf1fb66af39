"""What stays (features C6 to C10)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import asyncckpt
from asyncckpt import SavePolicy
from asyncckpt.training import CheckpointConfig

from .runs import NAN, due, listed, opened, saved, steps

VALUES = [0.5, 0.1, 0.2, 0.15, 0.9, 0.8, 0.7]
"""With which the original kept the epochs 2, 6 and 7, and lost two of the three best."""


def kept(root: Path, config: CheckpointConfig, values: list[float | None]) -> list[int]:
    """The steps that are listed after `values` were saved under `config`."""
    with opened(root, keep=config.retention_policy(), monitor=config.monitor) as ckpt:
        saved(ckpt, values, config.monitor[0])
        return listed(ckpt)


@pytest.mark.parametrize(
    ("number", "expected"), [(1, [7]), (3, [5, 6, 7]), (50, [*range(1, 8)]), (None, [*range(1, 8)])]
)
def test_c6_the_most_recent_stay(tmp_path: Path, number: int | None, expected: list[int]) -> None:
    assert kept(tmp_path / "run", CheckpointConfig(keep_last_n_checkpoints=number), [None] * 7) == expected


def test_c6_recent_is_what_was_saved_last_and_not_the_highest_step(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last_n_checkpoints=2)
    with opened(tmp_path / "run", keep=config.retention_policy()) as ckpt:
        for step in (30, 40, 25):  # a rollback: by steps 25 would be the one that goes
            ckpt.save(step).wait()
        assert listed(ckpt) == [40, 25]
        latest = ckpt.latest()
        assert latest is not None
        assert latest.step == 25


def test_c7_the_best_stay_whether_or_not_they_were_a_record(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last_n_checkpoints=2, keep_best_n_checkpoints=3)
    assert kept(tmp_path / "run", config, [*VALUES]) == [2, 3, 4, 6, 7]


def test_c7_the_best_alone_are_a_rule_too(tmp_path: Path) -> None:
    """The original pruned nothing where only keep_best was set; the one just saved stays until the next is."""
    assert kept(tmp_path / "run", CheckpointConfig(keep_best_n_checkpoints=2), [*VALUES]) == [2, 4, 7]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None, 0.5, None, None], [2, 4]),
        ([NAN, 0.5, NAN, NAN], [2, 4]),
        ([0.5, 0.5, 0.5, 0.9], [1, 2, 4]),
        ([0.9, None, 0.1, 0.2], [3, 4]),
    ],
    ids=["fewer metrics than places", "NaN", "ties", "without a metric"],
)
def test_c7_what_has_no_metric_is_never_best_and_of_ties_the_older(
    tmp_path: Path, values: list[float | None], expected: list[int]
) -> None:
    assert kept(tmp_path / "run", CheckpointConfig(keep_best_n_checkpoints=2), values) == expected


def test_c8_the_documented_example_of_50_epochs(tmp_path: Path) -> None:
    config = CheckpointConfig(
        save_every_n_epochs=1,
        keep_last_n_checkpoints=5,
        keep_best_n_checkpoints=3,
        keep_checkpoint_every_n_epochs=10,
    )
    losses = dict(zip(range(1, 51), random.Random(7).sample(range(100), 50), strict=True))
    best = sorted(losses, key=losses.__getitem__)[:3]
    with opened(tmp_path / "run", **without_tag(config)) as ckpt:
        for epoch, loss in losses.items():
            handle = ckpt.epoch_end(epoch, step=100 * epoch, metrics={"loss": loss})
            assert handle is not None
            handle.wait()
        assert [100 * (info.epoch or 0) for info in ckpt.checkpoints()] == listed(ckpt)
        found = {info.epoch for info in ckpt.checkpoints()}
    assert found == {*range(46, 51), *best, 10, 20, 30, 40, 50}
    assert len(found) <= 13
    assert not {*best} & {*range(46, 51), 10, 20, 30, 40, 50}  # or the example would show less


def without_tag(config: CheckpointConfig) -> dict[str, Any]:
    return {"save": config.save_policy(), "keep": config.retention_policy(), "monitor": config.monitor}


def test_c8_of_an_epoch_that_is_kept_its_last_checkpoint_stays(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last_n_checkpoints=1, keep_checkpoint_every_n_epochs=2)
    with opened(tmp_path / "run", keep=config.retention_policy()) as ckpt:
        for step, epoch in ((20, None), (21, 0)):  # in no epoch that is complete
            ckpt.save(step, epoch=epoch).wait()
        for step in range(1, 13):
            ckpt.save(step, epoch=(step + 2) // 3).wait()
        assert [(info.epoch, info.step) for info in ckpt.checkpoints()] == [(2, 6), (4, 12)]
        assert listed(ckpt) == [6, 12]


def test_c9_the_best_always_stays_also_after_a_restart(tmp_path: Path) -> None:
    config = CheckpointConfig(save_every_n_steps=1, keep_last_n_checkpoints=2)
    options: dict[str, Any] = {
        "keep": config.retention_policy(),
        "save": config.save_policy(),
        "monitor": config.monitor,
    }
    with opened(tmp_path / "run", **options) as ckpt:
        assert due(ckpt, [0.1, 0.9, 0.8, 0.7], "loss") == [1, 2, 3, 4]  # saved because of its step, not its value
    for first in (5, 15):
        with opened(tmp_path / "run", **options) as ckpt:
            ckpt.resume()
            due(ckpt, [0.5] * 10, "loss", first=first)
            assert listed(ckpt) == [1, first + 8, first + 9]
            assert ckpt.restore("best").step == 1


def test_c10_any_rule_keeps_and_what_none_does_is_off_the_disk(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last_n_checkpoints=1, keep_best_n_checkpoints=2, keep_checkpoint_every_n_epochs=4)
    root = tmp_path / "run"
    model = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(8))
    expected = {}
    with opened(root, model=model, keep=config.retention_policy(), monitor=config.monitor) as ckpt:
        for step, loss in enumerate(VALUES, 1):
            model[step].weight.data.fill_(step)
            expected[step] = [layer.weight.detach().clone() for layer in model]
            ckpt.save(step, epoch=step, metrics={"loss": loss}).wait()
        assert listed(ckpt) == [2, 4, 7]
        ckpt.prune()  # deletion may be one commit late
        found = ckpt.checkpoints()
    assert steps(found) == [2, 4, 7]
    # The folders of the others hold nothing but packs that a listed checkpoint shares.
    assert {path.parent.name[:8] for path in (root / "data").rglob("manifest.json")} == {info.id for info in found}
    for info in found:
        state = asyncckpt.load(root, info.step).state["model"]
        assert all(torch.equal(state[f"{n}.weight"], value) for n, value in enumerate(expected[info.step]))


def test_c10_without_a_rule_everything_stays(tmp_path: Path) -> None:
    assert kept(tmp_path / "run", CheckpointConfig(), [*VALUES]) == [*range(1, 8)]
    with opened(tmp_path / "none", save=SavePolicy(every_steps=1)) as ckpt:
        assert due(ckpt, [None] * 5) == listed(ckpt)
