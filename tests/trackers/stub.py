"""A `wandb` that records what it is told, and fails, hangs or asks as a test wants it to."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import Any


class Config(dict[str, Any]):
    def update(self, values: dict[str, Any], allow_val_change: bool = False) -> None:
        assert allow_val_change
        super().update(values)


class Artifact:
    def __init__(self, name: str, kind: str, metadata: dict[str, Any]) -> None:
        self.name, self.kind, self.metadata = name, kind, metadata
        self.references: list[tuple[str, str]] = []

    def add_reference(self, url: str, name: str, checksum: bool) -> None:
        assert not checksum, "a checksum would read the store"
        self.references.append((url, name))


class Run:
    def __init__(self, wandb: Wandb, arguments: dict[str, Any]) -> None:
        self._wandb = wandb
        self.arguments = arguments
        self.id = arguments.get("id", os.environ.get("WANDB_RUN_ID", "unnamed"))
        self.sweep_id: str | None = os.environ.get("WANDB_SWEEP_ID")
        self.config = Config(arguments.get("config") or {})
        self.summary: dict[str, Any] = {}
        self.defined: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.artifacts: list[tuple[Artifact, list[str]]] = []
        self.refuses: BaseException | None = None
        self.preempting = self.finished = 0

    def define_metric(self, name: str, step_metric: str | None = None, hidden: bool = False) -> None:
        self.defined[name] = step_metric

    def log(self, row: dict[str, Any]) -> None:
        if self.refuses is not None:
            raise self.refuses
        assert set(row) <= set(self.defined)
        self.rows.append(row)

    def log_artifact(self, artifact: Artifact, aliases: list[str]) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.artifacts.append((artifact, aliases))

    def mark_preempting(self) -> None:
        self.preempting += 1

    def finish(self) -> None:
        self.finished += 1
        if self in self._wandb.active:
            self._wandb.active.remove(self)
        if self._wandb.run is self:
            self._wandb.run = None


class Meeting(threading.Event):
    """Waits for a second one who comes here, but not for long: a gate at which two meet that nothing keeps apart."""

    def __init__(self) -> None:
        super().__init__()
        self._both = threading.Barrier(2)

    def wait(self, timeout: float | None = None) -> bool:
        with suppress(threading.BrokenBarrierError):
            self._both.wait(0.2)
        return True


class Wandb:
    """To be put into ``sys.modules["wandb"]``."""

    Artifact = Artifact

    def __init__(self) -> None:
        self.run: Run | None = None
        self.active: list[Run] = []
        self.begun: list[Run] = []
        self.fails: BaseException | None = None
        self.gate: threading.Event | None = None
        self.has_key = True
        self.mode = "online"

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def setup(self) -> SimpleNamespace:
        return SimpleNamespace(settings=SimpleNamespace(mode=os.environ.get("WANDB_MODE", self.mode)))

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt, "a person would be asked"
        return self.has_key or bool(os.environ.get("WANDB_API_KEY"))

    def init(self, **arguments: Any) -> Run:
        is_beside = arguments.get("reinit") == "create_new"
        if self.gate is not None:
            self.gate.wait()
        assert is_beside or not self.active, "W&B would give the one that is under way"
        if self.fails is not None:
            raise self.fails
        run = Run(self, arguments)
        self.active.append(run)
        self.begun.append(run)
        self.run = self.run if is_beside else run
        return run
