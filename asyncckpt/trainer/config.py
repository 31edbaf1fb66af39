"""Config: what can be said of a training; made of the configuration of an experiment, or by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from asyncckpt.launch.config import ExperimentConfig
from asyncckpt.launch.config.environment import as_written
from asyncckpt.policy import SavePolicy
from asyncckpt.preemption import Preemption
from asyncckpt.retention import Monitor, RetentionPolicy

AMP = {"bfloat16", "float16"}


@dataclass(frozen=True, kw_only=True)
class GenericTrainerConfig:
    """A training of `epochs` epochs, saved in `checkpoint_dir`: a path or a URL. Raises `ValueError` if it cannot be.

    `gradient_accumulation_steps`: batches per optimizer step; those that are left at the end of an epoch make one too.
    `max_grad_norm`: gradients are clipped to it, all parameters together. `amp`: the dtype of autocast; with
    ``"float16"`` losses are scaled. `scheduler_interval`: schedulers go on after each ``"epoch"``, or each ``"step"``.
    `save_timeout`: for how many seconds `GenericTrainer.save_checkpoint` waits; other saves nobody waits for.
    `patience`: so many epochs in a row in which the monitored metric does not improve by more than `threshold` end it.

    `resume_from`: where to begin, instead of at the newest checkpoint in `checkpoint_dir`: ``"best"``, a step, or a
    path or URL of another root (``root@best``), whose weights a training that has no checkpoint yet starts from.
    `strict`: they have to be those of the whole model.

    `seed`: set before anything is restored, and so never after it. `deterministic`: algorithms that are not are avoided
    where there are others, while `fit` runs. `settings`: everything that was configured, for the run to write down.
    """

    epochs: int
    checkpoint_dir: str | os.PathLike[str] = "checkpoints"
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = None
    amp: Literal["bfloat16", "float16"] | None = None
    scheduler_interval: Literal["epoch", "step"] = "epoch"
    patience: int | None = None
    threshold: float = 0.0
    save: SavePolicy | None = field(default_factory=lambda: SavePolicy(every_epochs=1))
    keep: RetentionPolicy | None = None
    monitor: Monitor = ("val_loss", "min")
    preemption: Preemption | None = field(default_factory=Preemption)
    save_timeout: float | None = None
    resume_from: int | str | os.PathLike[str] | None = None
    strict: bool = True
    seed: int | None = None
    deterministic: bool = True
    benchmark: bool = False
    log_every_n_steps: int = 10
    use_wandb: bool = False
    wandb_project: str | None = None
    wandb_entity: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "gradient_accumulation_steps", "log_every_n_steps", "patience"):
            value = getattr(self, name)
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not (name == "patience" and value is None) and not is_count:
                raise ValueError(f"{name}={value!r}: use a whole number, 1 or more")
        norm: Any = self.max_grad_norm
        if norm is not None and not (isinstance(norm, int | float) and norm > 0):
            raise ValueError(f"max_grad_norm={norm!r}: use a number above 0, or None")
        if self.amp is not None and self.amp not in AMP:
            raise ValueError(f"amp={self.amp!r}: use bfloat16 or float16, or None")
        if self.scheduler_interval not in ("epoch", "step"):
            raise ValueError(f"scheduler_interval={self.scheduler_interval!r}: use epoch or step")

    @classmethod
    def of(cls, config: ExperimentConfig) -> GenericTrainerConfig:
        """What the configuration of an experiment says; ``dataclasses.replace`` adds what that has no words for."""
        return cls(
            epochs=config.training.epochs,
            checkpoint_dir=config.checkpoint.checkpoint_dir,
            gradient_accumulation_steps=config.training.gradient_accumulation_steps,
            max_grad_norm=config.training.max_grad_norm,
            save=config.checkpoint.save_policy(),
            keep=config.checkpoint.retention(),
            monitor=config.checkpoint.monitored(),
            preemption=config.preemption.settings(),
            save_timeout=config.preemption.timeout_minutes * 60,
            seed=config.seed,
            deterministic=config.deterministic,
            benchmark=config.benchmark,
            log_every_n_steps=config.logging.log_every_n_steps,
            use_wandb=config.logging.use_wandb,
            wandb_project=config.logging.wandb_project,
            wandb_entity=config.logging.wandb_entity,
            settings=_settings(config),
        )

    def whole(self) -> dict[str, Any]:
        """What was configured, for the run to write down, and to read where to begin."""
        said = dict(self.settings) or {
            each.name: getattr(self, each.name) for each in fields(self) if each.name != "settings"
        }
        if self.resume_from is not None:
            start = self.resume_from if isinstance(self.resume_from, int) else os.fspath(self.resume_from)
            said["checkpoint"] = {**said.get("checkpoint", {}), "resume": start}
        return said


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """All of it, as it was written where that was a reference: variables may be secrets. The run has its name."""
    said: dict[str, Any] = as_written(asdict(config), config.written, is_literal=False)
    return {**said, "experiment_name": config.experiment_name}
