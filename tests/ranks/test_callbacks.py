"""Functions that are called with checkpoints, where there are several ranks (feature C25)."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed as dist

from asyncckpt import RetentionPolicy
from asyncckpt.leading import rank
from asyncckpt.training import Callbacks, HistoryFile

from .executors import Launcher
from .looking import listing_of
from .training import Training


def heard_on_a_rank(root: Path) -> list[tuple[str, int]]:
    """What this rank's callbacks were called with."""
    heard: list[tuple[str, int]] = []
    callbacks = Callbacks(lambda state, checkpoint: heard.append(("durable", state.step)))
    callbacks.register(lambda event: heard.append(("staged", event.step)), "staged")
    callbacks.register(lambda event: heard.append(("pruned", event.step)), "pruned")
    history, training = HistoryFile(root), Training()
    with training.checkpointer(root, listeners=[callbacks, history], keep=RetentionPolicy(last=1)) as ckpt:
        for step in (1, 2):
            training.step()
            ckpt.save(step).wait(60)
    assert history.wait(60)
    return sorted(heard)


def test_c25_of_several_ranks_rank_0_calls_them(launch: Launcher, tmp_path: Path) -> None:
    """Otherwise a chat is told of each checkpoint by every rank."""
    first, second = launch(heard_on_a_rank, 2, tmp_path / "run")
    assert first == [("durable", 1), ("durable", 2), ("pruned", 1), ("staged", 1), ("staged", 2)]
    assert second == []
    assert [checkpoint.step for checkpoint in listing_of(tmp_path / "run").checkpoints] == [2]


def ranks_of_a_life() -> list[int]:
    """Its rank in the process group, and after that."""
    os.environ.pop("RANK")  # as where there is no launcher
    within = rank()
    dist.destroy_process_group()
    return [within, rank()]


def test_a_rank_knows_what_it_was_after_the_process_group_is_gone(launch: Launcher) -> None:
    assert launch(ranks_of_a_life, 2) == [[0, 0], [1, 1]]
