"""Wire: what trainer and worker process tell each other, as JSON and back. No pickle: a message is data, never code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from asyncckpt import events
from asyncckpt.errors import Fenced
from asyncckpt.events import Event
from asyncckpt.format.contents import Alias, Contents
from asyncckpt.format.document import contents_json, contents_of
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Removal, WriterId
from asyncckpt.format.sealed import Fixed, canonical, seal, unseal
from asyncckpt.format.shard import PackedTensor
from asyncckpt.retention import Kept, PrunePlan
from asyncckpt.worker import failures
from asyncckpt.worker.commitlog.past import Claim, Past
from asyncckpt.worker.job import Layout, PlannedPack, PlannedTensor, SaveJob

PROTOCOL = 6
"""Trainer and worker are of one installation; an upgrade under a running training is what tells them apart."""

Message = dict[str, Any]


class UnknownEvent(ValueError):
    """An event of another version."""


# -- jobs --------------------------------------------------------------------------------------------------


def job_json(job: SaveJob) -> Message:
    """A job without its layout, which many share."""
    return {
        "id": job.id,
        "ordinal": job.ordinal,
        "step": job.step,
        "epoch": job.epoch,
        "metrics": dict(job.metrics),
        "created": job.created,
        "arena": job.arena,
        # As text that the worker passes on: to parse and encode that of 20,000 tensors anew takes 40 ms.
        "values": {scope: canonical(value).decode("ascii") for scope, value in job.values.items()},
        "rank": job.rank,
        "world": job.world,
        "plan": job.plan,
        "parent": job.parent,
        "partial": list(job.partial),
        "emergency": job.emergency,
        "local_only": job.local_only,
        "passable": job.passable,
        "message": job.message,
    }


def job_of(said: Message, layout: Layout) -> SaveJob:
    """The inverse of `job_json`."""
    values = {scope: Fixed.encoded(encoding) for scope, encoding in said["values"].items()}
    return SaveJob(layout=layout, **{**said, "values": values, "partial": tuple(said["partial"])})


def layout_json(layout: Layout) -> Message:
    """Everything about a layout; tensors in file order."""
    return {
        "packs": [[pack.start, pack.header, pack.length] for pack in layout.packs],
        "tensors": [_tensor_json(path, tensor) for path, tensor in layout.tensors.items()],
        "aliases": [[path, a.of, a.dtype, a.shape, a.stride, a.offset] for path, a in layout.aliases.items()],
        "size": layout.size,
        "bytes": layout.bytes,
    }


def _tensor_json(path: tuple[str, ...], tensor: PlannedTensor) -> list[Any]:
    packed = tensor.packed
    where = [path, tensor.dtype, tensor.shape, tensor.stride, tensor.pack, tensor.offset]
    return [*where, packed.name, packed.dtype, packed.shape, packed.nbytes]


def layout_of(said: Message) -> Layout:
    """The inverse of `layout_json`."""
    return Layout(
        packs=tuple(PlannedPack(*pack) for pack in said["packs"]),
        tensors={tuple(tensor[0]): _tensor_of(*tensor[1:]) for tensor in said["tensors"]},
        aliases={tuple(path): _alias_of(*alias) for path, *alias in said["aliases"]},
        size=said["size"],
        bytes=said["bytes"],
    )


def _tensor_of(dtype: str, shape: list[int], stride: list[int] | None, pack: int, offset: int, *packed: Any) -> Any:
    name, packed_dtype, packed_shape, nbytes = packed
    stored = PackedTensor(name, packed_dtype, tuple(packed_shape), nbytes)
    return PlannedTensor(dtype, tuple(shape), None if stride is None else tuple(stride), pack, offset, stored)


def _alias_of(of: list[str], dtype: str, shape: list[int], stride: list[int], offset: int) -> Alias:
    return Alias(tuple(of), dtype, tuple(shape), tuple(stride), offset)


# -- what has happened -------------------------------------------------------------------------------------


def event_json(event: Event) -> Message:
    """An event; an error in it comes along."""
    told = {field.name: getattr(event, field.name) for field in fields(event)}
    return {"event": type(event).__name__, **{name: _field_json(value) for name, value in told.items()}}


def _field_json(value: object) -> object:
    if isinstance(value, BaseException):
        return {"$error": failures.encode(value)}
    return dict(value) if isinstance(value, Mapping) else value


def event_of(said: Message) -> Event:
    """The inverse of `event_json`; fields that are not known here are left out. Raises `UnknownEvent`."""
    kind = vars(events).get(said["event"])
    if not (isinstance(kind, type) and issubclass(kind, Event)):
        raise UnknownEvent(f"no event is called {said['event']!r} here")
    known = {field.name for field in fields(kind)}
    return kind(**{name: _field_of(value) for name, value in said.items() if name in known})


def _field_of(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return failures.decode(value["$error"]) if isinstance(value, dict) and "$error" in value else value


# -- what a service has to know ----------------------------------------------------------------------------


def past_json(past: Past) -> Message:
    """A past, with its claim."""
    return {
        "claim": claim_json(past.claim),
        "reading": list(past.reading.items()),
        "found": [found_json(finding, damage) for finding, damage in past.found.items()],
    }


def past_of(said: Message) -> Past:
    """The inverse of `past_json`."""
    return Past(claim_of(said["claim"]), dict(said["reading"]), dict(map(found_of, said["found"])))


def found_json(finding: Finding, damage: Damage) -> Message:
    """Damage that was found."""
    return {"finding": asdict(finding), "damage": asdict(damage)}


def found_of(said: Message) -> tuple[Finding, Damage]:
    """The inverse of `found_json`."""
    return Finding(**said["finding"]), Damage(**said["damage"])


def claim_json(claim: Claim) -> Message:
    """A claim."""
    fenced = None if claim.fenced is None else failures.encode(claim.fenced)
    return {
        "me": asdict(claim.me),
        "inc": claim.inc,
        "first_seq": claim.first_seq,
        "resumed": claim.resumed,
        "fenced": fenced,
    }


def claim_of(said: Message) -> Claim:
    """The inverse of `claim_json`."""
    fenced = None if said["fenced"] is None else failures.decode(said["fenced"])
    return Claim(
        WriterId(**said["me"]),
        said["inc"],
        said["first_seq"],
        said["resumed"],
        fenced if isinstance(fenced, Fenced) else None,
    )


def contents_text(contents: Contents) -> str:
    """Contents, which may be large: as they stand in a manifest."""
    return seal({**contents_json(contents), "codec": contents.hidden}).decode("ascii")


def contents_from(text: str) -> Contents:
    """The inverse of `contents_text`."""
    fields = unseal(text.encode("ascii"), "contents from another process")
    return replace(contents_of(fields), hidden=fields["codec"])


def plan_json(plan: PrunePlan) -> Message:
    """What retention does."""
    return {
        "kept": [[kept.seq, kept.step, list(kept.reasons)] for kept in plan.kept],
        "removed": [[removal.seq, removal.step, removal.reason, removal.rule] for removal in plan.removed],
        "freed": plan.freed,
    }


def plan_of(said: Message) -> PrunePlan:
    """The inverse of `plan_json`."""
    kept = tuple(Kept(seq, step, tuple(reasons)) for seq, step, reasons in said["kept"])
    return PrunePlan(kept, tuple(Removal(*removal) for removal in said["removed"]), said["freed"])
