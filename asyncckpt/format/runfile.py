"""Run file: ``run.json``, written once when a run's first writer opens it, and never changed.

It fixes how commits are made exclusive, since two writers that disagreed about that would not exclude each
other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from asyncckpt.errors import CheckpointCorruptError, RunRefused, UnsupportedFormat
from asyncckpt.format.sealed import seal, unseal

Publish: TypeAlias = Literal["whole", "torn"]
"""Whether a created record is there whole or not at all, or may be torn by a power loss. In a run of the
second kind a newest record that fails its digest is a lost slot, which openers go past; in one of the first
kind it is damage, and an alarm."""


Mode: TypeAlias = Literal["exclusive", "fenced"]
"""How two writers are kept apart: see `asyncckpt.checkpoints.commits`."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run's identity and its way of committing."""

    id: str
    publish: Publish
    created: int
    """Microseconds since the epoch."""
    mode: Mode = "exclusive"

    def encode(self) -> bytes:
        """The run file's one encoding."""
        return seal({"id": self.id, "mode": self.mode, "publish": self.publish, "created": self.created})


_FORM = re.compile(
    rb'\{"created":\d+,"format":\d+,"id":"[0-9a-f]{16}","mode":"exclusive","publish":"torn","digest":"[0-9a-f]{32}"\}'
)
_SAMPLE = RunFile("0" * 16, "torn", 10**15).encode()


def is_torn(data: bytes | memoryview) -> bool:
    """Whether a crash may have left `data` of a run file that was being created: any beginning of one."""
    return len(data) < len(_SAMPLE) and _FORM.fullmatch(bytes(data) + _SAMPLE[len(data) :]) is not None


def foreign(what: str) -> RunRefused:
    """The error for a file named as a run file that neither a writer nor a crash has left."""
    return RunRefused(
        f"{what} is not a run file of asyncckpt, and is left as it is: move it away, use another root, or, if it was "
        "one and is damaged, put a copy of it back"
    )


def decode(data: bytes | memoryview, what: str) -> RunFile:
    """Decode and check a run file; raises `CheckpointCorruptError` or `UnsupportedFormat` naming `what`."""
    fields = unseal(data, what)
    mode = fields.get("mode")
    if mode not in ("exclusive", "fenced"):
        raise UnsupportedFormat(f"{what} commits in mode {mode!r}: upgrade asyncckpt")
    try:
        publish = fields["publish"]
        if publish not in ("whole", "torn"):
            raise UnsupportedFormat(f"{what} publishes records as {publish!r}: upgrade asyncckpt")
        return RunFile(str(fields["id"]), cast(Publish, publish), int(fields["created"]), cast(Mode, mode))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorruptError(f"{what} lacks or misuses a field: {error!r}") from error
