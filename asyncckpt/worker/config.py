"""Config: what a service is told once, beside its jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from asyncckpt.events import LOCAL
from asyncckpt.format.codec import PLAIN, Codec
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
    codec: Codec = PLAIN
    """What packs are stored with."""
    incremental: bool = True
    """Whether a save shares what did not change with older ones."""
    code_version: Callable[[], str | None] = lambda: None
    """Which code trains; may take seconds, and so is nothing for a loop."""
    only_encrypted: bool = False
    """Whether what is not encrypted is not read."""

    @property
    def beside(self) -> dict[str, Storage]:
        """The tiers beside home, by their names, nearest first."""
        found = {LOCAL: self.local, "mirror": self.mirror}
        return {name: storage for name, storage in found.items() if storage is not None}
