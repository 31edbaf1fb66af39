"""W&B: a run that is told metrics, and whose artifacts point at checkpoints without copying a byte of them.

Nothing is logged with W&B's own ``step``, which drops what arrives late: every row says its step in
``asyncckpt/step``, and each metric is defined over that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from asyncckpt.events import Amended, Durable, Event, PreemptionNoticed, Resumed
from asyncckpt.metrics_log.rows import Value
from asyncckpt.retention import Monitor
from asyncckpt.storage.base import Storage
from asyncckpt.trackers import under_way
from asyncckpt.trackers.base import needed
from asyncckpt.trackers.credentials import wandb_id
from asyncckpt.trackers.pause import Pause
from asyncckpt.trackers.references import Reference, References
from asyncckpt.trackers.sweep import with_sweep

STEP = "asyncckpt/step"
PROJECT = "asyncckpt"


class WandbTracker:
    """A W&B run (extra ``wandb``): the one that the program has begun, else one of its own, resumed where `run_id` has
    run before.

    `run_id` is best that of the run, which stays the same for its whole life: ``Run.trackers`` gives it that, and the
    root. `name` is shown to people, `project`, `entity`, `group` and `tags` are W&B's own words, and its files lie in
    `folder`. What the environment says (``WANDB_MODE``,
    ``WANDB_PROJECT``, ...) comes first. With `root`, where the checkpoints are, each durable one becomes a version of
    the artifact ``{run id}-checkpoint``: a reference to its manifest, with the aliases ``latest``, ``step-{step}`` and,
    by `monitor` or by what the run goes by, ``best``.
    """

    name = "wandb"
    is_immediate = False

    def __init__(
        self,
        run_id: str | None = None,
        *,
        name: str | None = None,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
        folder: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] | Storage | None = None,
        storage_options: Mapping[str, Any] | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "id": None if run_id is None else wandb_id(run_id),
            "name": name or run_id,
            "project": project or PROJECT,
            "entity": entity,
            "group": group,
            "tags": tags or None,
            "dir": None if folder is None else os.fspath(folder),
            "resume": "allow",
        }
        self._root, self._options, self._monitor = root, storage_options, monitor
        self._references: References | None = None
        self._owner: str | None = None
        self._begun: Callable[[Any], object] | None = None
        self._wandb: Any = None
        self._run: Any = None
        self._is_own = False
        self._defined: set[str] = set()
        self._best: int | None = None
        self._unsent: set[int] = set()
        self._is_due = False
        self._pause = Pause()

    @property
    def run(self) -> Any:
        """W&B's run, once it has begun; None before that."""
        return self._run

    def belong(
        self,
        run_id: str,
        root: str | os.PathLike[str] | Storage,
        storage_options: Mapping[str, Any] | None,
        begun: Callable[[Any], object],
    ) -> None:
        """Go with the run `run_id` in `root`, where no others were given; `begun` is told W&B's run once it has begun.

        Called before it is opened.
        """
        if self._arguments["id"] is None:
            self._arguments["id"] = wandb_id(run_id)
            self._arguments["name"] = self._arguments["name"] or run_id
        if self._root is None:
            self._root, self._options = root, storage_options
        self._owner, self._begun = run_id, begun

    def open(self, config: Mapping[str, Any]) -> None:
        """Join the active run, unless it is another tracker's, or begin one.

        Raises `TrackerUnavailable` where a person would have to be asked.
        """
        if self._root is not None:
            self._references = References(self._root, self._options, self._monitor)
        self._wandb = wandb = needed("wandb", "wandb", "W&B")
        self._run, self._is_own = under_way.join_or_begin(wandb, {**self._arguments, **_settings(wandb)}, self._owner)
        self._configure(config)
        self._run.define_metric(STEP, hidden=True)
        if self._begun is not None:
            self._begun(self._run)

    def _configure(self, config: Mapping[str, Any]) -> None:
        shown = with_sweep(config)
        if self._run.sweep_id:  # what the sweep has set is locked, and W&B warns of each that is set again
            shown = {name: value for name, value in shown.items() if name not in dict(self._run.config)}
        self._run.config.update(shown, allow_val_change=True)

    def log(self, step: int, metrics: Mapping[str, Value]) -> None:
        """One row; what has no value is left out. Artifacts that could not be sent are tried again, after a pause."""
        self._send(step, {name: value for name, value in metrics.items() if value is not None})
        self._send_references()

    def _send(self, step: int, metrics: Mapping[str, Value]) -> None:
        for name in metrics:
            if name not in self._defined:
                self._run.define_metric(name, step_metric=STEP)
                self._defined.add(name)
        self._run.log({**metrics, STEP: step})

    def on_event(self, event: Event) -> None:
        """Say what a save took, point artifacts at it, and tell W&B that the machine will be taken away."""
        match event:
            case Durable():
                if not event.partial:
                    self._unsent.add(event.seq)
                    self._is_due = True
                took = {"asyncckpt/save_seconds": event.seconds, "asyncckpt/written_bytes": event.written}
                self._send(event.step, took)
                self._send_references()
            case Amended():
                self._is_due = True  # another may be the best
                self._send_references()
            case Resumed():
                self._run.summary["asyncckpt/resumed_step"] = event.step
            case PreemptionNoticed():
                self._run.mark_preempting()

    def _send_references(self, *, is_last: bool = False) -> None:
        """Every artifact that is due, unless that has just failed; the last time in any case.

        Raises what the first failure in a row is, and the last: between them nobody need hear of it.
        """
        if self._references is None or not self._is_due or not (self._pause.is_over or is_last):
            return
        try:
            self._refer_to_all(self._references)
        except Exception:
            if self._pause.begin() or is_last:
                raise
        else:
            self._pause.end()

    def _refer_to_all(self, references: References) -> None:
        listed = references.listed()
        due = [found for found in listed if found.seq in self._unsent or (found.is_best and found.seq != self._best)]
        if due and not due[-1].is_latest:
            due.append(listed[-1])  # W&B itself calls the last one that it is told of the latest
        self._unsent = {found.seq for found in due}  # of these none is forgotten if one fails; others are not listed
        for found in due:
            self._refer(found)
        self._is_due = False

    def _refer(self, found: Reference) -> None:
        artifact = self._wandb.Artifact(f"{self._run.id}-checkpoint", "checkpoint", metadata=dict(found.metadata))
        artifact.add_reference(found.url, name="manifest.json", checksum=False)
        aliases = [f"step-{found.metadata['step']}"]
        aliases += ["latest"] * found.is_latest + ["best"] * found.is_best
        self._run.log_artifact(artifact, aliases=aliases)
        self._unsent.discard(found.seq)
        if found.is_best:
            self._best = found.seq

    def close(self) -> None:
        """Send what is left, and finish the run if it is our own."""
        try:
            self._send_references(is_last=True)
        finally:
            if self._references is not None:
                self._references.close()
            if self._is_own:
                under_way.end(self._run)


def _settings(wandb: Any) -> dict[str, Any]:
    # The run has logs of its own; W&B would put itself between the training and its console, from another thread.
    return {} if os.environ.get("WANDB_CONSOLE") else {"settings": wandb.Settings(console="off")}
