"""Schema: what the configuration of an experiment can say, section by section, with types, ranges and defaults.

A field without a default has to be given. ``None`` turns a thing off. What several sections mean for the runtime is
said here too: `CheckpointConfig.save_policy`, `CheckpointConfig.retention`, `PreemptionConfig.settings`.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, Literal

from asyncckpt.launch.config import rules
from asyncckpt.launch.config.environment import Written
from asyncckpt.launch.config.rules import above, at_least, below_one, one_of, within
from asyncckpt.policy import SavePolicy
from asyncckpt.preemption import Preemption
from asyncckpt.retention import Monitor, RetentionPolicy

Text = Annotated[str, rules.text]
Count = Annotated[int, at_least(1)]
Whole = Annotated[int, at_least(0)]
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, within(0, 1e300)]
Share = Annotated[float, below_one]


@dataclass(kw_only=True)
class ModelConfig:
    """The model; what is particular to yours goes into `custom_params`."""

    name: Text
    hidden_size: Count | None = None
    num_layers: Count | None = None
    num_heads: Count | None = None
    dropout: Share = 0.0


@dataclass(kw_only=True)
class TrainingConfig:
    """How long, in which portions, and how fast."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    gradient_accumulation_steps: Count = 1
    max_grad_norm: Positive | None = None


@dataclass(kw_only=True)
class DataConfig:
    """What is trained on."""

    dataset_name: Text
    train_split: Text = "train"
    val_split: Text | None = "validation"
    test_split: Text | None = "test"
    preprocessing: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class OptimizerConfig:
    """The optimizer; its learning rate is `TrainingConfig.learning_rate`."""

    name: Text
    weight_decay: NotNegative = 0.0
    betas: Annotated[tuple[float, float], rules.all_below_one] = (0.9, 0.999)
    eps: Positive = 1e-8


@dataclass(kw_only=True)
class SchedulerConfig:
    """The schedule of the learning rate."""

    name: Text
    warmup_steps: Whole = 0
    min_lr: NotNegative = 0.0


@dataclass(kw_only=True)
class SLURMConfig:
    """What a job asks Slurm for; what is None is left to the template and to the cluster."""

    job_name: Text | None = None
    time_limit: Annotated[str, rules.time_limit] | None = None
    nodes: Count | None = None
    ntasks_per_node: Count | None = None
    cpus_per_task: Count | None = None
    mem: Annotated[str, rules.memory] | None = None
    gres: Annotated[str, rules.resources] | None = None
    partition: Text | None = None
    additional_args: Annotated[list[str], rules.options] = field(default_factory=list)


@dataclass(kw_only=True)
class LoggingConfig:
    """What is told, where, and how often."""

    log_level: Annotated[str, one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")] = "INFO"
    use_wandb: bool = False
    wandb_project: Text | None = None
    wandb_entity: Text | None = None
    log_every_n_steps: Count = 10


@dataclass(kw_only=True)
class CheckpointConfig:
    """When a checkpoint is saved, where, and which of them stay.

    `save_top_k`: so many of the best by `monitor` stay, whatever else goes; -1 keeps all, and 0 none for being good.
    """

    save_every_n_epochs: Count | None = 1
    save_every_n_steps: Count | None = None
    save_every_n_minutes: Positive | None = None
    save_on_best: bool = False
    save_top_k: Annotated[int, at_least(-1)] = -1
    keep_last: Count | None = None
    keep_every_n_epochs: Count | None = None
    keep_every_n_steps: Count | None = None
    monitor: Text = "val_loss"
    mode: Literal["min", "max"] = "min"
    checkpoint_dir: Text = "./checkpoints"

    def save_policy(self) -> SavePolicy:
        """When to save, for ``AsyncCheckpointer(save=)``."""
        return SavePolicy(
            every_epochs=self.save_every_n_epochs,
            every_steps=self.save_every_n_steps,
            every_seconds=None if self.save_every_n_minutes is None else self.save_every_n_minutes * 60,
            on_best=self.save_on_best,
        )

    def retention(self) -> RetentionPolicy | None:
        """What stays, for ``AsyncCheckpointer(keep=)``; None keeps everything. The newest always stays."""
        if self.save_top_k < 0 and self.keep_last is None:
            return None
        return RetentionPolicy(
            last=self.keep_last or (None if self.save_top_k else 1),
            best=self.save_top_k if self.save_top_k > 0 else None,
            every_epochs=self.keep_every_n_epochs,
            every_steps=self.keep_every_n_steps,
        )

    def monitored(self) -> Monitor:
        """Which metric decides what is best, for ``AsyncCheckpointer(monitor=)``."""
        return (self.monitor, self.mode)


@dataclass(kw_only=True)
class PreemptionConfig:
    """What happens when the job is told that it will be killed.

    `grace_period_seconds`: from the notice to the kill. `timeout_minutes`: the longest an emergency save may take.
    `signal`: what Slurm gives notice with, that long before the time limit too. `requeue`: whether the job is put back
    into the queue, `max_preemptions` times at most.
    """

    timeout_minutes: Positive = 5.0
    grace_period_seconds: Positive = 60.0
    max_preemptions: Whole | None = None
    signal: Annotated[str, one_of("SIGUSR1", "SIGUSR2", "SIGTERM")] = "SIGUSR1"
    requeue: bool = True

    def settings(self) -> Preemption:
        """For ``AsyncCheckpointer(preemption=)``."""
        return Preemption(
            deadline=min(self.grace_period_seconds, self.timeout_minutes * 60),
            requeue="auto" if self.requeue else "none",
            max_preemptions=self.max_preemptions,
        )


@dataclass(kw_only=True)
class PerformanceConfig:
    """How batches are loaded."""

    num_workers: Whole = 0
    pin_memory: bool = False
    prefetch_factor: Count | None = None
    persistent_workers: bool = False

    def loader_arguments(self) -> dict[str, Any]:
        """Keywords for a loader of torch, which refuses some of them where it has no workers."""
        of_workers = {"prefetch_factor": self.prefetch_factor, "persistent_workers": self.persistent_workers}
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            **(of_workers if self.num_workers else {}),
        }


@dataclass(kw_only=True)
class ExperimentConfig:
    """All that an experiment is; ``asyncckpt.launch.config.experiment`` makes one of what a file says."""

    experiment_name: Text
    model: ModelConfig
    training: TrainingConfig
    data: DataConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig | None = None
    slurm: SLURMConfig | None = None
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    preemption: PreemptionConfig = field(default_factory=PreemptionConfig)
    performance: PerformanceConfig = field(default_factory=PerformanceConfig)
    description: str | None = None
    tags: list[str] = field(default_factory=list)
    created_by: str | None = None
    created_at: str | None = None
    version: str = "1.0"
    seed: Annotated[int, within(0, 2**32 - 1)] | None = None
    deterministic: bool = True
    benchmark: bool = False
    custom_params: dict[str, Any] = field(default_factory=dict)

    _written: InitVar[Written | None] = None

    def __post_init__(self, _written: Written | None) -> None:
        # No field: it says nothing about the experiment.
        self.written: Written = dict(_written or {})
        """How texts that were references were written, for the next file: they may be passwords."""
        vars(self)["_written"] = self.written  # where dataclasses.replace() looks for it
