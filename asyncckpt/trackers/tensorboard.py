"""TensorBoard: scalars, the configuration as text, and checkpoints, in event files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from asyncckpt.events import Durable, Event, Resumed
from asyncckpt.metrics_log.rows import Value
from asyncckpt.trackers.base import needed


class TensorBoardTracker:
    """Writes event files into `folder` (extra ``tensorboard``).

    After a resume, TensorBoard drops what earlier event files say of later steps.
    """

    name = "tensorboard"
    is_immediate = False

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = os.path.expanduser(os.fspath(folder))
        self._writer: Any = None

    def open(self, config: Mapping[str, Any]) -> None:
        """Begin a new event file. Raises `TrackerUnavailable` without the extra."""
        self._writer = _module("summary.writer.event_file_writer").EventFileWriter(self._folder)
        if config:
            self._text("config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```")

    def log(self, step: int, metrics: Mapping[str, Value]) -> None:
        """One point for each metric."""
        summary = _module("compat.proto.summary_pb2").Summary()
        for name, value in metrics.items():
            if value is not None:
                summary.value.add(tag=name, simple_value=value)
        self._add(step, summary=summary)

    def on_event(self, event: Event) -> None:
        """How long a save took, and its bytes; and where training goes on."""
        match event:
            case Resumed():
                log = _module("compat.proto.event_pb2").SessionLog
                self._add(event.step + 1, session_log=log(status=log.START))
            case Durable():
                sizes = {"asyncckpt/save_seconds": event.seconds, "asyncckpt/written_bytes": event.written}
                self.log(event.step, sizes)

    def close(self) -> None:
        """End the event file."""
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        summary = _module("compat.proto.summary_pb2").Summary()
        value = summary.value.add(tag=tag, metadata=_module("plugins.text.metadata").create_summary_metadata(tag, ""))
        value.tensor.dtype = _module("compat.proto.types_pb2").DT_STRING
        value.tensor.string_val.append(text.encode())
        value.tensor.tensor_shape.dim.add(size=1)
        self._add(0, summary=summary)

    def _add(self, step: int, **content: Any) -> None:
        event = _module("compat.proto.event_pb2").Event(wall_time=time.time(), step=step, **content)
        self._writer.add_event(event)
        self._writer.flush()


def _module(name: str) -> Any:
    return needed(f"tensorboard.{name}", "tensorboard", "TensorBoard")
