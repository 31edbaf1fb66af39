"""Plotter: pictures of a training while it goes on, drawn by a thread of its own, which cannot harm it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from asyncckpt.metrics_log.history import History, read_metrics
from asyncckpt.metrics_log.rows import Row, step_of
from asyncckpt.metrics_log.timeline import read_checkpoints
from asyncckpt.plots.comparison import comparison
from asyncckpt.plots.curves import training_curves
from asyncckpt.plots.extras import PlotsUnavailable
from asyncckpt.plots.histograms import optimizer_histograms, weight_histograms
from asyncckpt.plots.sampling import copied, sampled, sampled_optimizer
from asyncckpt.plots.timeline import checkpoint_timeline
from asyncckpt.plots.waves import wave_panels, wave_parts
from asyncckpt.storage import opened
from asyncckpt.storage.base import Storage

logger = logging.getLogger("asyncckpt")

WAITING = 16
"""Pictures that may wait to be drawn; older ones are left out."""

Pictures = Mapping[str, bytes]

Folder: TypeAlias = str | os.PathLike[str] | Storage
Metrics: TypeAlias = History | Folder | Callable[[], History]
"""A history, or where it is read or what gives it, once it is drawn."""
Checkpoints: TypeAlias = Sequence[Row] | Folder | Callable[[], Sequence[Row]]
"""The same of the rows of a checkpoint log."""


class Plotter:
    """Draws into `folder`, a path or URL (extra ``plots``); `every` is for `is_due`.

    Each call returns at once, after it has copied what training would change; a picture is there a little later, as
    ``{kind}_step_{step}_{time}.png``. What was logged is best given as the folder or URL of the log, which is read with
    the same `storage_options`, or as a function: either takes its time in the thread that draws, where the same read
    before the call would take the training's. It may have rows by then that are later than `step`. What goes wrong is
    one line in the log, and counted in `failed`. Drawing is Python's work, and takes that from a training that is bound
    by Python itself.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | Storage,
        *,
        every: int = 1000,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every={every!r}: use the number of steps from one picture to the next, 1 or more")
        self.every = every
        self.drawn = self.failed = self.left_out = 0
        self._options = storage_options
        self._storage = opened(folder, storage_options)
        self._is_ours = self._storage is not folder
        self._change = threading.Condition()
        self._queue: deque[tuple[str, int, Callable[[], Pictures]]] = deque()
        self._thread: threading.Thread | None = None
        self._is_closing = self._is_unavailable = self._is_ended = False
        self._said: set[str] = set()

    def is_due(self, step: int) -> bool:
        """Whether `step` is one of those that are drawn: each multiple of `every`, but not 0."""
        return step_of(step) > 0 and step_of(step) % self.every == 0

    def training(self, step: int, metrics: Metrics) -> None:
        """The curves of all metrics."""
        self._draw("training", step, lambda: {"": training_curves(self._metrics(metrics), f"Training, step {step:,}")})

    def model(self, step: int, model: Any) -> None:
        """Histograms of the weights, and the panels of waves where the model has any.

        Evenly spread values are copied here: at most 20 million, and whole the attributes of waves.
        """

        def copy() -> Callable[[], Pictures]:
            weights = sampled(model.state_dict())
            waves = {
                path: {name: copied(value) for name, value in part.items()} for path, part in wave_parts(model).items()
            }
            return lambda: _of_model(weights, waves, step)

        self._copied("model", step, copy)

    def optimizer(self, step: int, optimizer: Any) -> None:
        """Histograms of what the optimizer keeps; copied here as `model` does."""

        def copy() -> Callable[[], Pictures]:
            state = sampled_optimizer(optimizer.state_dict())
            return lambda: {"": optimizer_histograms(state, f"Optimizer, step {step:,}")}

        self._copied("optimizer", step, copy)

    def checkpoints(self, step: int, rows: Checkpoints) -> None:
        """The timeline of the checkpoints."""
        self._draw("checkpoints", step, lambda: {"": checkpoint_timeline(self._rows(rows))})

    def compare(self, step: int, runs: Mapping[str, Metrics]) -> None:
        """Several runs side by side."""
        given = dict(runs)
        self._draw("comparison", step, lambda: {"": comparison({n: self._metrics(one) for n, one in given.items()})})

    def _metrics(self, given: Metrics) -> History:
        if isinstance(given, History):
            return given
        return given() if callable(given) else read_metrics(given, storage_options=self._options)

    def _rows(self, given: Checkpoints) -> Sequence[Row]:
        if isinstance(given, Sequence) and not isinstance(given, str):
            return given
        return given() if callable(given) else read_checkpoints(given, storage_options=self._options)

    def _copied(self, kind: str, step: int, copy: Callable[[], Callable[[], Pictures]]) -> None:
        if self._is_unavailable:
            return
        try:
            draw = copy()
        except Exception as error:
            self._fail(kind, error)
        else:
            self._draw(kind, step, draw)

    def _draw(self, kind: str, step: int, draw: Callable[[], Pictures]) -> None:
        with self._change:
            if self._is_closing or self._is_unavailable:
                self.left_out += 1
                return
            self._queue.append((kind, step_of(step), draw))
            if len(self._queue) > WAITING:
                self._queue.popleft()
                self.left_out += 1
                self._say("late", "pictures are wanted faster than they are drawn: the oldest are left out")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="asyncckpt-plots", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            kind, step, draw = job
            try:
                self._put(kind, step, draw())
            except PlotsUnavailable as error:
                self._is_unavailable = True
                self._fail("", error)
            except Exception as error:  # a picture is never worth a training
                self._fail(kind, error)
        with self._change:
            self._is_ended = True
            self._change.notify_all()

    def _next(self) -> tuple[str, int, Callable[[], Pictures]] | None:
        with self._change:
            self._change.wait_for(lambda: self._queue or self._is_closing)
            if self._is_unavailable:
                self.left_out += len(self._queue)
                self._queue.clear()
            return self._queue.popleft() if self._queue else None

    def _put(self, kind: str, step: int, pictures: Pictures) -> None:
        at = time.strftime("%Y%m%d_%H%M%S")
        for part, picture in pictures.items():
            name = "_".join(filter(None, [kind, re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-.")]))
            asyncio.run(_put(self._storage, f"{name}_step_{step:09}_{at}.png", picture))
            self.drawn += 1

    def _fail(self, kind: str, error: Exception) -> None:
        self.failed += 1
        what = f"the picture {kind!r} was" if kind else "pictures are"
        text = str(error).strip().splitlines()
        self._say(kind, f"{what} not drawn: {text[0] if text else type(error).__name__}; training goes on")

    def _say(self, key: str, sentence: str) -> None:
        if key not in self._said:
            self._said.add(key)
            logger.warning("%s", sentence)

    def close(self, timeout: float = 60.0) -> bool:
        """Whether all that waits was drawn within `timeout` seconds; the rest is given up."""
        with self._change:
            if self._is_closing:
                return self._is_ended or self._thread is None
            self._is_closing = True
            self._change.notify_all()
            is_ended = self._thread is None or self._change.wait_for(lambda: self._is_ended, timeout)
            left = len(self._queue)
        if not is_ended:
            logger.warning("%d pictures were not drawn within %g s, and are given up", left + 1, timeout)
            return False
        if self._thread is not None:
            self._thread.join()
            if self._is_ours:
                asyncio.run(self._storage.aclose())
        return True

    def __enter__(self) -> Plotter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _of_model(weights: Mapping[str, Any], waves: Mapping[str, Mapping[str, Any]], step: int) -> Pictures:
    drawn = {"weights": weight_histograms(weights, f"Weights, step {step:,}")}
    for path, part in waves.items():
        panels = wave_panels(part, f"{path or 'Waves'}, step {step:,}")
        prefix = f"{path}-" if len(waves) > 1 else ""
        drawn.update({f"{prefix}{name}": picture for name, picture in panels.items()})
    return drawn


async def _put(storage: Storage, key: str, picture: bytes) -> None:
    await storage.put(key, [picture])
