"""Options: what a user asks of a checkpointer beside the objects to save, as one value that was checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from asyncckpt.arguments import check_choices, check_keep, check_kinds, check_listeners, check_values
from asyncckpt.budget import Budget
from asyncckpt.construction.executing import Wanted
from asyncckpt.events import Listener
from asyncckpt.lifecycle.belonging import Root, Run
from asyncckpt.metrics import MetricsConfig
from asyncckpt.policy import SavePolicy
from asyncckpt.preemption import Preemption
from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.saves.saving import OnBusy, Verify
from asyncckpt.worker.process.settings import ProcessConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of `AsyncCheckpointer`, by their names.

    Raises `ValueError` or `TypeError` for what cannot be meant.
    """

    root: Root
    save: SavePolicy | None
    keep: RetentionPolicy | None
    monitor: Monitor | None
    on_busy: OnBusy
    on_failure: Literal["warn", "raise"]
    budget: int | Budget | None
    generations: int
    executor: Wanted
    metrics: int | MetricsConfig | None
    listeners: Iterable[Listener]
    storage_options: Mapping[str, Any] | None = field(repr=False)  # secrets are among them
    local: Root | None
    mirror: Root | None
    preemption: Preemption | None
    verify: Verify
    overwrite: bool
    close_timeout: float
    run: Run | None
    """What the root belongs to."""

    def __post_init__(self) -> None:
        check_choices(on_busy=self.on_busy, on_failure=self.on_failure, verify=self.verify)
        if not isinstance(self.executor, ProcessConfig):
            check_choices(executor=self.executor)
        check_kinds(save=(self.save, SavePolicy), keep=(self.keep, RetentionPolicy))
        check_listeners(self.listeners)
        check_keep(self.keep, self.monitor)
        if self.monitor is not None:  # a list, as configurations have it, is never equal to what records say
            object.__setattr__(self, "monitor", tuple(self.monitor))
        check_values(self.root, self.close_timeout, self.generations)

    @property
    def limits(self) -> Budget:
        """What saving may take."""
        return self.budget if isinstance(self.budget, Budget) else Budget(memory=self.budget)
