"""Config: what a service is told once, beside its jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from asyncckpt.events import LOCAL
from asyncckpt.retention import Monitor, RetentionPolicy
from asyncckpt.storage.base import Storage
from asyncckpt.worker.pace import Pace


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What a service needs to know beside its jobs."""

    keep: RetentionPolicy | None = None
    monitor: Monitor | None = None
    overwrite: bool = False
    drained: Callable[[], Awaitable[None]] | None = None
    """Returns once nobody is left on this host whose commit the run should not be taken from."""
    pace: Pace = field(default_factory=Pace)
    """Of digesting and writing."""
    mirror: Storage | None = None
    """Where home's checkpoints are copied to."""
    local: Storage | None = None
    """Where every save is committed before it is at home."""

    @property
    def beside(self) -> dict[str, Storage]:
        """The tiers beside home, by their names, nearest first."""
        found = {LOCAL: self.local, "mirror": self.mirror}
        return {name: storage for name, storage in found.items() if storage is not None}
