"""Holding: what one checkpoint holds, as its page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asyncckpt.checkpoints.listing import Which, find
from asyncckpt.configuration.masking import MASK, is_secret, without_logins
from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.format.manifest import Manifest
from asyncckpt.format.record import Checkpoint
from asyncckpt.inspection.contents import Component, Contents, Tensor
from asyncckpt.inspection.found import Found
from asyncckpt.inspection.values import Value
from asyncckpt.serve.view import View

_ID_DIGITS = 8


@dataclass(frozen=True)
class Holding:
    """All of it; its components, the tensors that were asked for, and every value that is none, secrets masked."""

    found: Found
    components: Sequence[Component]
    tensors: Sequence[Tensor]
    values: Sequence[Value]


def holding(view: View, checkpoint: Checkpoint, manifest: Manifest, glob: str = "") -> Holding:
    """What `manifest` tells of `checkpoint`; of the tensors those whose name matches `glob`, or has it in it."""
    contents = Contents(manifest)
    found = Found(
        summary=view.summaries[checkpoint.seq],
        record=next(record for record in view.run.listing.records if record.checkpoint is checkpoint),
        checkpoint=checkpoint,
        contents=contents,
        damage=view.run.damage.get(checkpoint.seq),
    )
    pattern = glob if any(sign in glob for sign in "*?[") else f"*{glob}*"
    return Holding(found, contents.components(), contents.tensors(pattern), masked(contents.values()))


def masked(values: Sequence[Value]) -> list[Value]:
    """`values` as they may be shown: a learning rate is, and a token is not."""
    return [Value(value.path, _text(value)) for value in values]


def _text(value: Value) -> str:
    return MASK if is_secret(value.path[-1], value.text) else without_logins(value.text)


def found_in(view: View, said: str) -> Checkpoint:
    """The checkpoint that a URL names: ``latest``, ``best``, a step, an id or a tag. Raises as `find` does."""
    which: Which = said
    if said.isascii() and said.isdecimal() and len(said) < _ID_DIGITS:
        which = int(said)
    try:
        return find(view.run.listing, which, view.name)
    except CheckpointNotFoundError as error:
        gone = next((line for line in view.lines if line.id == said and line.state == "pruned"), None)
        if gone is None:
            raise
        raise CheckpointNotFoundError(f"{said} of step {gone.step:,} is gone: {gone.fate}") from error
