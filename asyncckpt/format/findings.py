"""Findings: notes that a checkpoint was found damaged, left in the root by whoever found it for whoever comes next.

Which checkpoint it is the key says, by its number and by the digest of its manifest, so that no other is ever taken for
it: ``user/00000042-damaged-<digest>.json``. A finding is a word to retention, which spares that checkpoint and counts
it in no rule; a false one keeps more than need be. To readers it says nothing: what can be read, its bytes decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.marks import USER
from asyncckpt.format.record import Checkpoint
from asyncckpt.format.sealed import seal, unseal

_FINDING = re.compile(r"user/(\d{8,})-damaged-([0-9a-f]{32})\.json")


@dataclass(frozen=True, slots=True)
class Finding:
    """The checkpoint with number `seq` whose manifest has the digest `manifest` was found damaged."""

    seq: int
    manifest: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Finding:
        """What it would be if `checkpoint` were damaged."""
        return cls(checkpoint.seq, checkpoint.manifest.digest)

    @property
    def key(self) -> str:
        """Where it lies."""
        return f"{USER}{self.seq:08d}-damaged-{self.manifest}.json"


def finding_of(key: str) -> Finding | None:
    """The finding that a key under ``user/`` is, or None."""
    match = _FINDING.fullmatch(key)
    found = Finding(int(match[1]), match[2]) if match else None
    return found if found is not None and found.key == key else None  # another spelling could never be taken away


def among(keys: Iterable[str]) -> frozenset[Finding]:
    """The findings among `keys`."""
    return frozenset(found for key in keys if (found := finding_of(key)) is not None)


@dataclass(frozen=True, slots=True)
class Damage:
    """What is in a finding, for people: `kind` in one word, the reason, who found it, and when (in microseconds)."""

    kind: str
    reason: str
    author: str
    found: int

    def encode(self) -> bytes:
        """The note itself."""
        return seal(asdict(self))


def decode(data: bytes | memoryview, what: str) -> Damage:
    """The inverse of `Damage.encode`; raises `CheckpointCorruptError` or `UnsupportedFormat`."""
    fields = unseal(data, what)
    try:
        return Damage(str(fields["kind"]), str(fields["reason"]), str(fields["author"]), int(fields["found"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorruptError(f"{what} lacks or misuses a field: {error!r}") from error
