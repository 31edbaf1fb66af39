"""Console: what is written to ``sys.stdout`` and ``sys.stderr``, copied to sinks, and shown as before.

The streams stay the same objects: only their ``write`` is ours for a while. So a handler that was given a stream long
ago is heard too, and whoever asks whether it is a terminal is told the truth. What goes past Python (a library in C, a
child process) is not heard.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

Sink: TypeAlias = Callable[[str], None]
"""Takes text, and never raises."""

logger = logging.getLogger("asyncckpt")

_FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_lock = threading.RLock()
_heard: dict[int, _Heard] = {}


class _Heard:
    """One stream that is listened to."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.sinks: tuple[Sink, ...] = ()
        self._write = stream.write
        vars(stream)["write"] = self.write

    def write(self, text: str) -> int:
        if isinstance(text, str):
            for sink in self.sinks:
                sink(text)
        return self._write(text)

    def leave(self) -> None:
        if vars(self.stream).get("write") == self.write:  # else somebody has put another in its place, who calls ours
            del vars(self.stream)["write"]


class Console:
    """Gives `sink` all that is shown from `begin` on until `end`, and all log records, shown or not."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._streams: list[TextIO] = []
        self._handlers: list[logging.Handler] = []
        self._level: int | None = None

    def begin(self) -> None:
        """Listen. Where nobody has configured logging, records from level INFO on are shown on the console as well."""
        streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
        self._streams = [stream for stream in streams if _listen(stream, self._sink)]
        root = logging.getLogger()
        if not root.handlers:
            self._add(root, logging.StreamHandler())
            if root.level == logging.WARNING:
                self._level = root.level
                root.setLevel(logging.INFO)
        self._add(root, _Unshown(self._sink))
        for stream in streams:
            if stream not in self._streams:
                logger.warning("what is written to %r cannot be copied to a log", stream)

    def _add(self, root: logging.Logger, handler: logging.Handler) -> None:
        handler.setFormatter(logging.Formatter(_FORM))
        root.addHandler(handler)
        self._handlers.append(handler)

    def end(self) -> None:
        """Leave everything as it was."""
        root = logging.getLogger()
        for handler in self._handlers:
            root.removeHandler(handler)
        if self._level is not None and root.level == logging.INFO:
            root.setLevel(self._level)
        self._level = None
        for stream in self._streams:
            _unlisten(stream, self._sink)
        self._handlers, self._streams = [], []


def _listen(stream: TextIO, sink: Sink) -> bool:
    with _lock:
        try:
            heard = _heard.get(id(stream)) or _Heard(stream)
        except TypeError:  # an object without a dictionary
            return False
        _heard[id(stream)] = heard
        heard.sinks = (*heard.sinks, sink)
        return True


def _unlisten(stream: TextIO, sink: Sink) -> None:
    with _lock:
        heard = _heard[id(stream)]
        heard.sinks = tuple(other for other in heard.sinks if other != sink)
        if not heard.sinks:
            heard.leave()
            del _heard[id(stream)]


class _Unshown(logging.Handler):
    """Gives a sink those records that no handler shows on a stream that it listens to: so each is there once."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not _is_shown(record):
                self._sink(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def _is_shown(record: logging.LogRecord) -> bool:
    asked: logging.Logger | None = logging.getLogger(record.name)
    while asked is not None:
        if any(record.levelno >= handler.level and _is_heard(handler) for handler in asked.handlers):
            return True
        asked = asked.parent  # it came to the root: all on the way let it pass
    return False


def _is_heard(handler: Any) -> bool:
    """Whether it writes to a stream that is listened to; handlers of rich have a console that has the stream."""
    stream = getattr(handler, "stream", None) or getattr(getattr(handler, "console", None), "file", None)
    return stream is not None and id(stream) in _heard
