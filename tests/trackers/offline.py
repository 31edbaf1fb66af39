"""What W&B wrote in offline mode: the records of a ``run-*.wandb`` file (LevelDB's log format), as protocol buffers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32 * 1024
_WHOLE, _FIRST, _LAST = 1, 2, 4


def records(folder: Path) -> list[Any]:
    """Every record of all runs in `folder`, in the order of their files."""
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(data) for file in sorted(folder.rglob("run-*.wandb")) for data in _raw(file.read_bytes())]


def _raw(data: bytes) -> Iterator[bytes]:
    at, parts = 7, b""  # W&B's own header
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += 7
        parts = (b"" if kind in (_WHOLE, _FIRST) else parts) + data[at : at + length]
        at += length
        if kind in (_WHOLE, _LAST):
            yield parts


def rows(found: list[Any]) -> list[dict[str, Any]]:
    """The logged rows."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]


def config(found: list[Any]) -> dict[str, Any]:
    """The configuration, as it was at the end."""
    shown: dict[str, Any] = {}
    for record in found:
        kind = record.WhichOneof("record_type")
        updates = record.run.config.update if kind == "run" else record.config.update if kind == "config" else ()
        shown.update({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates})
    return shown


def artifacts(found: list[Any]) -> list[Any]:
    """The artifacts that were logged."""
    return [
        record.request.log_artifact.artifact if record.WhichOneof("record_type") == "request" else record.artifact
        for record in found
        if record.WhichOneof("record_type") == "artifact"
        or (
            record.WhichOneof("record_type") == "request"
            and record.request.WhichOneof("request_type") == "log_artifact"
        )
    ]
