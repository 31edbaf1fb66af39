"""Manifest: what one checkpoint holds: every tensor as boxes of extents, every other value as JSON.

A manifest is immutable data, not the commit. It is a function of the ranks' reports, so that whoever
survives can build the same bytes. Extents name packs by index into the manifest's own table; a pack may
belong to an older checkpoint, which is how an unchanged tensor is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format import HIDDEN
from asyncckpt.format.contents import Contents, check
from asyncckpt.format.document import document, document_of, shown
from asyncckpt.format.sealed import Json, unseal


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything one checkpoint holds, and where."""

    run: str
    seq: int
    step: int
    inc: int
    nonce: str
    world: int
    contents: Contents
    code_version: str | None = None
    partial: tuple[str, ...] = ()
    """The parts of the state that are not in it, as the record says too."""

    def encode(self) -> bytes:
        """The manifest's one encoding."""
        about: dict[str, Json] = {
            "run": self.run,
            "seq": self.seq,
            "step": self.step,
            "inc": self.inc,
            "nonce": self.nonce,
            "world": self.world,
            "code_version": self.code_version,
        }
        if self.partial:
            about["partial"] = [*self.partial]
        return document(about, self.contents)


def decode(data: bytes | memoryview, what: str) -> Manifest:
    """Decode and check a manifest; raises `CheckpointCorruptError` or `UnsupportedFormat` naming `what`.

    Raises `KeyUnavailable` for one that is encrypted with a key that is not here.
    """
    return _decoded(data, what, _contents)


def decode_shown(data: bytes | memoryview, what: str) -> Manifest:
    """A manifest as far as it takes no key to read: of one that is encrypted, what it holds is its packs alone.

    Raises as `decode` does.
    """
    return _decoded(data, what, lambda fields, what: shown(fields))


def _contents(fields: Mapping[str, Any], what: str) -> Contents:
    return document_of(fields, ("run", "seq", "step", "inc", "nonce", "world"), what)


def _decoded(
    data: bytes | memoryview, what: str, contents_in: Callable[[Mapping[str, Any], str], Contents]
) -> Manifest:
    fields = unseal(data, what, also=HIDDEN)
    try:
        manifest = Manifest(
            fields["run"],
            fields["seq"],
            fields["step"],
            fields["inc"],
            fields["nonce"],
            fields["world"],
            contents_in(fields, what),
            fields["code_version"],
            tuple(map(str, fields.get("partial", ()))),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointCorruptError(f"{what} lacks or misuses a field: {error!r}") from error
    check(manifest.contents, what)
    return manifest
