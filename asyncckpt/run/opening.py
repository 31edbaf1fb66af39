"""Opening: how one start comes to its run: what it was asked for, what the root holds, and what is made of that.

Everything is looked at before anything is made, and the first object that is made, ``identity.json``, is created
exclusively: of two starts that found the same empty root one goes on, and the other is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Which
from asyncckpt.errors import CheckpointNotFoundError, ObjectExists
from asyncckpt.revision import CodeVersion, code_version
from asyncckpt.run import guard, identity, leavings
from asyncckpt.run.guard import Held
from asyncckpt.run.identity import Identity
from asyncckpt.run.reference import Reference
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import bounded_reading
from asyncckpt.tiers import scheme

Mode: TypeAlias = Literal["new", "resume", "auto", "overwrite"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a start asks for; `reference` is what ``checkpoint.resume`` of its configuration means."""

    name: str
    mode: Mode
    now: datetime
    id: str | None = None
    """Where one was made already, since it is part of the root."""
    reference: Reference | None = None
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of it: the run, and whether the start goes on with one, replaces one or begins one.

    `which` is the checkpoint to go on from, and `start_from` one of another root, to take weights from.
    """

    identity: Identity
    mode: Literal["new", "resume", "overwrite"]
    which: Which = "latest"
    start_from: tuple[str, Which] | None = None
    back_to: str | None = None
    """The words of the configuration that `which` comes from, where it is a named one."""

    def json(self) -> dict[str, Any]:
        """For other ranks."""
        text = self.identity.encode().decode()
        return {
            "identity": text,
            "mode": self.mode,
            "which": self.which,
            "start_from": self.start_from,
            "back_to": self.back_to,
        }


def opened_of(said: Mapping[str, Any]) -> Opened:
    """What another rank has said."""
    start_from = said["start_from"]
    return Opened(
        identity.decode(said["identity"].encode(), "what rank 0 said"),
        said["mode"],
        said["which"],
        None if start_from is None else (start_from[0], start_from[1]),
        said["back_to"],
    )


def wanted(mode: Mode, found: Reference | None) -> Mode:
    """The mode that `mode` and the configuration together ask for.

    A configuration that names a checkpoint of the run itself wants to go on with it; one that names another root's
    begins from there, and once it has checkpoints goes on from its own. Raises `ValueError` for a contradiction.
    """
    if mode not in ("new", "resume", "auto", "overwrite"):
        raise ValueError(f"mode={mode!r}: use one of new, resume, auto, overwrite")
    if found is None:
        return mode
    if mode == "overwrite" and found.root is None:
        raise ValueError('mode="overwrite" and checkpoint.resume contradict each other: leave out one of them')
    if mode != "new":
        return mode
    return "auto" if found.root is not None or found.said == "auto" else "resume"


async def opened(storage: Storage, asked: Asked) -> Opened:
    """Look, and then make what a start needs.

    Raises `CheckpointDirectoryExistsError`, `CheckpointNotFoundError` and `StorageError`; then nothing was made.
    """
    held = await guard.look(storage)
    mode = _mode(storage.url, held, asked)
    found = held.identity if mode == "resume" else None
    which, start_from = await _checkpoint(storage, asked, found, has_begun=held.has_begun and mode == "resume")
    code = code_version()
    if mode == "overwrite":
        await storage.delete([*held.files, identity.KEY])
        await leavings.remove(storage)
    if found is None:
        run = await _begun(storage, asked, code, mode)
    else:
        run = replace(found, starts=(*found.starts, identity.start(mode, code, asked.now)))
        await storage.put(identity.KEY, [run.encode()])
    is_named = which != "latest" and asked.reference is not None
    return Opened(run, mode, which, start_from, asked.reference.said if is_named and asked.reference else None)


def _mode(url: str, held: Held, asked: Asked) -> Literal["new", "resume", "overwrite"]:
    if asked.mode == "new" and not held.is_nothing:
        raise guard.refusal(url, held)
    if asked.mode == "resume" and held.is_nothing:
        raise CheckpointNotFoundError(
            f'{url} holds no run to go on with, and nothing was made there: check the path, or use mode="auto", which '
            "begins one where there is none"
        )
    if held.is_nothing or asked.mode == "new":
        return "new"
    return "overwrite" if asked.mode == "overwrite" else "resume"


async def _checkpoint(
    storage: Storage, asked: Asked, found: Identity | None, *, has_begun: bool
) -> tuple[Which, tuple[str, Which] | None]:
    """Which checkpoint to go on from, and which of another root to begin with; one that is named must be there."""
    reference = asked.reference
    if reference is None:
        return "latest", None
    if reference.root is not None:
        if has_begun and (await Catalog(storage).listing()).checkpoints:
            return "latest", None
        await _check_other(reference, asked.options if scheme(reference.root) == scheme(storage.url) else None)
        return "latest", (reference.root, reference.which)
    if reference.which == "latest":
        return "latest", None
    if found is not None and found.went_back == reference.said:
        return "latest", None  # it went back already, and what came after that must not be lost with every restart
    await Catalog(storage).named(reference.which)
    return reference.which, None


async def _check_other(reference: Reference, options: Mapping[str, Any] | None) -> None:
    assert reference.root is not None  # noqa: S101 -- asked by the caller
    other = bounded_reading(from_url(reference.root, options))
    try:
        await Catalog(other).named(reference.which)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            f"checkpoint.resume is {reference.said!r}, and there is no such checkpoint: {error}"
        ) from error
    finally:
        await other.aclose()


async def _begun(storage: Storage, asked: Asked, code: CodeVersion, mode: str) -> Identity:
    """A new identity, in a root that has none: also where checkpoints are gone on with that no run has written."""
    run_id, moment = (asked.id, asked.now) if asked.id else identity.new_id(asked.name, code, asked.now)
    first = identity.start(mode, code, asked.now)
    run = Identity(run_id, asked.name, moment.isoformat(timespec="seconds"), code, (first,))
    try:
        await storage.put(identity.KEY, [run.encode()], mode="create")
    except ObjectExists as error:
        raise guard.refusal(storage.url, await guard.look(storage)) from error
    return run
