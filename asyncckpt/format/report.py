"""Report: what one rank wrote in one attempt. The manifest is the merge of exactly `world` of them.

A report says which attempt it belongs to, so that one of an earlier attempt, of another world size or of a
fenced writer is never mixed in. A run of one rank writes no report: its committer holds it in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format import HIDDEN
from asyncckpt.format.contents import Contents
from asyncckpt.format.document import document, document_of
from asyncckpt.format.sealed import Json, unseal


@dataclass(frozen=True, slots=True)
class Report:
    """One rank's part of one attempt."""

    writer: str
    """The writer's nonce."""
    seq: int
    nonce: str
    step: int
    rank: int
    world: int
    plan: str
    """Fingerprint of what every rank must have planned alike: see `SaveJob`."""
    contents: Contents

    @property
    def attempt(self) -> tuple[str, int, str, int, int]:
        """What every report of one attempt must agree on."""
        return (self.writer, self.seq, self.nonce, self.step, self.world)

    def encode(self) -> bytes:
        """The report's one encoding."""
        about: dict[str, Json] = {
            "writer": self.writer,
            "seq": self.seq,
            "nonce": self.nonce,
            "step": self.step,
            "rank": self.rank,
            "world": self.world,
            "plan": self.plan,
        }
        return document(about, self.contents)


def decode(data: bytes | memoryview, what: str) -> Report:
    """Decode and check a report; raises `CheckpointCorruptError` or `UnsupportedFormat` naming `what`."""
    fields = unseal(data, what, also=HIDDEN)
    try:
        return Report(
            fields["writer"],
            fields["seq"],
            fields["nonce"],
            fields["step"],
            fields["rank"],
            fields["world"],
            fields["plan"],
            document_of(fields, ("writer", "seq", "nonce", "rank"), what),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorruptError(f"{what} lacks or misuses a field: {error!r}") from error
