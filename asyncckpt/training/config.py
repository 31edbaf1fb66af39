"""Checkpoint config: when to save, what of, and what stays, in one flat value, as a configuration file has it.

`AsyncCheckpointer` takes policies and listeners, each of which says one thing. This says the same under names that
stand in many a configuration, and makes those from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from asyncckpt.events import Listener
from asyncckpt.policy import SavePolicy
from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.storage.base import Storage
from asyncckpt.training.moving_tags import BestTag, LatestTag

MESSAGE = "Checkpoint at epoch {epoch}, step {step}"


class Keywords(TypedDict):
    """Those of `AsyncCheckpointer` that a `CheckpointConfig` gives."""

    save: SavePolicy
    keep: RetentionPolicy
    monitor: Monitor
    listeners: list[Listener]


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """``AsyncCheckpointer(root, model=..., **config.keywords(root, "my_model"))``.

    The monitored metric is `save_on_best_metric`, else ``loss``; lower is better with `minimize_metric`. The best
    checkpoint always stays. Without `use_incremental_saves` every checkpoint is written whole. Without `auto_commit`
    none is made by itself, whatever is due: what ``ckpt.save()`` is asked for is, and as long as there is none,
    ``resume()`` returns None and ``restore()`` raises. Raises `ValueError` for what cannot be meant, at once.
    """

    save_every_n_steps: int | None = None
    save_every_n_epochs: int | None = None
    save_on_best_metric: str | None = None
    minimize_metric: bool = True
    keep_last_n_checkpoints: int | None = None
    keep_best_n_checkpoints: int | None = None
    keep_checkpoint_every_n_epochs: int | None = None
    save_optimizer_state: bool = True
    save_scheduler_state: bool = True
    save_random_state: bool = True
    use_incremental_saves: bool = True
    auto_commit: bool = True
    commit_message_template: str = MESSAGE
    tag_best_checkpoints: bool = True

    def __post_init__(self) -> None:
        self.save_policy()
        self.retention_policy()

    def save_policy(self) -> SavePolicy:
        """When to save, and what of."""
        left_out = {
            "optimizer": not self.save_optimizer_state,
            "scheduler": not self.save_scheduler_state,
            "rng": not self.save_random_state,
        }
        policy = SavePolicy(
            every_steps=self.save_every_n_steps,
            every_epochs=self.save_every_n_epochs,
            on_best=self.save_on_best_metric is not None,
            exclude=[part for part, is_out in left_out.items() if is_out],
            message=self.commit_message_template,
            incremental=self.use_incremental_saves,
        )
        return policy if self.auto_commit else replace(policy, every_steps=None, every_epochs=None, on_best=False)

    def retention_policy(self) -> RetentionPolicy:
        """What stays."""
        return RetentionPolicy(
            last=self.keep_last_n_checkpoints,
            best=self.keep_best_n_checkpoints,
            every_epochs=self.keep_checkpoint_every_n_epochs,
        )

    @property
    def monitor(self) -> Monitor:
        """Which metric is best, and which way."""
        return self.save_on_best_metric or "loss", "min" if self.minimize_metric else "max"

    def keywords(
        self,
        root: str | os.PathLike[str] | Storage,
        model_name: str = "model",
        storage_options: Mapping[str, Any] | None = None,
        *,
        experiment_name: str | None = None,
    ) -> Keywords:
        """What it says, as arguments of the `AsyncCheckpointer` of `root`; the best is tagged ``{model_name}_best``.

        With an `experiment_name` the latest is tagged with that. Listeners of your own go behind those:
        ``[*config.keywords(...)["listeners"], mine]``.
        """
        listeners = list[Listener]()
        if self.tag_best_checkpoints:
            tag = f"{model_name}_best"
            listeners.append(BestTag(root, tag, monitor=self.monitor, storage_options=storage_options))
        if experiment_name is not None:
            listeners.append(LatestTag(root, experiment_name, storage_options=storage_options))
        return {
            "save": self.save_policy(),
            "keep": self.retention_policy(),
            "monitor": self.monitor,
            "listeners": listeners,
        }
