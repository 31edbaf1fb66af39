"""Run file: ``run.json``, written once when a run's first writer opens it, and never changed.

It fixes how commits are made exclusive, since two writers that disagreed about that would not exclude each
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format.sealed import seal, unseal

Publish: TypeAlias = Literal["whole", "torn"]
"""Whether a created record is there whole or not at all, or may be torn by a power loss. In a run of the
second kind a newest record that fails its digest is a lost slot, which openers go past; in one of the first
kind it is damage, and an alarm."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run's identity and its way of committing."""

    id: str
    publish: Publish
    created: int
    """Microseconds since the epoch."""

    def encode(self) -> bytes:
        """The run file's one encoding."""
        return seal({"id": self.id, "mode": "exclusive", "publish": self.publish, "created": self.created})


def decode(data: bytes | memoryview, what: str) -> RunFile:
    """Decode and check a run file; raises `CheckpointCorruptError` or `UnsupportedFormat` naming `what`."""
    fields = unseal(data, what)
    if fields.get("mode") != "exclusive":
        raise UnsupportedFormat(f"{what} commits in mode {fields.get('mode')!r}: upgrade asyncckpt")
    try:
        publish = fields["publish"]
        if publish not in ("whole", "torn"):
            raise UnsupportedFormat(f"{what} publishes records as {publish!r}: upgrade asyncckpt")
        return RunFile(str(fields["id"]), cast(Publish, publish), int(fields["created"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorruptError(f"{what} lacks or misuses a field: {error!r}") from error
