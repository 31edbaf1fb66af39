"""Restoring: reading a checkpoint, as far as it has to be there before live objects are touched (``fitting``).

What is in live memory matters when a training restores a named checkpoint: then every byte is read and its digest
checked before the first parameter changes, and what goes straight into live memory is read once more (``placing``).
It does not matter when a training resumes: there everything is read once, and a damage that shows late is mended by
the next older checkpoint, which replaces all that was changed.

Local disks read into live host memory (``placing``). From any other store, out of frames, and on its way to a device,
what a resume reads arrives when it is its component's turn (``arriving``), in live memory or in memory that will be the
state's; what must be checked before anything changes arrives in memory of its own, once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from asyncckpt.checkpoints.catalog import ATTEMPTS, Catalog
from asyncckpt.checkpoints.listing import CheckpointInfo, Which, which_of
from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError, IncompatibleState
from asyncckpt.eventlog import EventLog
from asyncckpt.events import HOME, Listeners, RestoreFailed
from asyncckpt.fetching.arriving import Arrivals, HostRooms
from asyncckpt.fetching.placing import Place, Places
from asyncckpt.fetching.progress import Progress
from asyncckpt.fetching.reading import check_packs, fetch
from asyncckpt.fetching.unpacking import is_plain
from asyncckpt.format.contents import Contents, Path
from asyncckpt.format.record import Checkpoint
from asyncckpt.restores.unloading import OnDevice, PinnedRooms, follow, unloading
from asyncckpt.state.apply import (
    can_be_shaped_before,
    rooms_for,
    shaped,
    state_of,
    tensors_of,
    wanted,
    without_missing,
)
from asyncckpt.state.capture import Tree, components
from asyncckpt.state.landing import SMALLEST, fitting, memory_of
from asyncckpt.storage.base import Opening, Storage

CPU = torch.device("cpu")

SHARED = "state"
"""The scope of what is the same on every rank; with one rank, of everything."""


def own_scope(rank: int) -> str:
    """The scope of what belongs to `rank` alone."""
    return f"rank-{rank}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint's state as plain nested dicts, read and checked."""

    checkpoint: Checkpoint
    scopes: Mapping[str, Any]
    bytes: int
    verified: Contents
    """What was read and matched its digests, and so may be shared by the next save."""
    places: Places | None = None
    """The live tensors in `scopes`, which `apply` has yet to fill."""
    late: Late | None = None
    """More of them, and others whose bytes are not there yet."""
    tier: str = HOME
    """Where it was read."""

    @property
    def state(self) -> dict[str, Any]:
        """What all ranks share, and on top what belongs to the scopes that were read."""
        merged: dict[str, Any] = {}
        for scope in self.scopes.values():
            merged |= scope
        return merged


@dataclass(frozen=True, slots=True)
class Late:
    """What is fetched when it is needed."""

    arrivals: Arrivals
    fresh: tuple[Tensor, ...]
    """What is no live tensor."""
    devices: frozenset[torch.device]


@dataclass(frozen=True, slots=True)
class Live:
    """What of a training a checkpoint may be read straight into."""

    tensors: Mapping[Path, Tensor]
    """By their paths in a checkpoint."""
    parts: frozenset[Path]
    """The components: what is stored below may come when it is their turn."""
    homes: Mapping[Path, torch.device]
    """See `Component.homes`."""


NOTHING_LIVE = Live({}, frozenset(), {})


async def read(
    catalog: Catalog,
    checkpoint: Checkpoint,
    scopes: Collection[str] | None = None,
    *,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
    device: torch.device = CPU,
    live: Live = NOTHING_LIVE,
    ahead: bool = True,
    progress: Progress | None = None,
) -> Loaded:
    """Read a checkpoint (its `scopes`, all of them where None) onto `device` and check every digest.

    What fits one of the `live` tensors may be checked only, and without `ahead` not even that: the tensor itself is in
    the state, for `apply` to fill. So are those, without `ahead`, that are not live and not there yet.
    Raises `CheckpointCorruptError` if anything is wrong, `CheckpointNotFoundError` if retention removed it
    meanwhile, which is not damage, and `StorageError` if the store cannot be read.
    """
    progress = progress or Progress(checkpoint.step, Listeners([EventLog()]))
    try:
        contents = (await catalog.manifest(checkpoint)).contents
        paths = _paths(contents, scopes, only, exclude)
        await check_packs(catalog.storage, contents, paths)
        progress.expect(sum(contents.tensors[path].nbytes for path in paths))
        fit = fitting(contents, paths, live.tensors)
        places, tensors = await _landed(catalog.storage, contents, fit, progress, ahead=ahead)
        later = {} if ahead else _later(catalog.storage, contents, paths - tensors.keys(), live, fit)
        late = _late(catalog.storage, contents, later, fit, progress)
        tensors |= {path: fit[path] for path in later if path in fit}
        tensors |= shaped(contents, {path: flat for path, flat in later.items() if path not in fit})
        tensors |= await _now(catalog.storage, contents, paths - tensors.keys(), device, progress)
    except CheckpointCorruptError:
        if not await catalog.is_listed(checkpoint):
            raise CheckpointNotFoundError(
                f"the checkpoint of step {checkpoint.step} was removed by retention while it was read"
            ) from None
        raise
    sound = {path: entry for path, entry in contents.tensors.items() if path in tensors}
    verified = replace(contents, tensors=sound, aliases={}, values={})
    values = contents.values
    states = {
        scope: without_missing(state_of(values[scope], tensors, only, exclude))
        for scope in values
        if scopes is None or scope in scopes
    }
    size = sum(tensor.nbytes for tensor in tensors.values())
    return Loaded(checkpoint, states, size, verified, places, late)


async def read_named(
    catalog: Catalog,
    which: Which,
    scopes: Collection[str] | None = None,
    *,
    only: Collection[str] | None = None,
    device: torch.device = CPU,
) -> tuple[Loaded, CheckpointInfo]:
    """Read the checkpoint that `which` names now; "latest" and "best" follow a writer that overtakes the reader.

    Raises as `read` does.
    """
    which = which_of(which)
    for _ in range(ATTEMPTS):
        checkpoint, info = await catalog.named(which)
        try:
            return await read(catalog, checkpoint, scopes, only=only, device=device), info
        except CheckpointNotFoundError:
            if which not in ("latest", "best"):
                raise
    raise overtaken(which)


def overtaken(which: Which) -> CheckpointNotFoundError:
    """The error of a reader that retention always overtook."""
    return CheckpointNotFoundError(
        f"retention removed the {which} checkpoint {ATTEMPTS} times while it was read: keep more of them, or read "
        "while nothing is saved"
    )


def _paths(
    contents: Contents,
    scopes: Collection[str] | None,
    only: Collection[str] | None,
    exclude: Collection[str],
) -> set[Path]:
    """The stored tensors to read."""
    paths = wanted(contents, only, exclude)
    if scopes is not None:
        foreign = {scope for scope in contents.values if scope != SHARED and scope not in scopes}
        named = {path for path in paths if path[0] not in foreign}
        # What all ranks share may lie in the bytes of a tensor that is rank 0's own.
        paths = named | {alias.of for path, alias in contents.aliases.items() if path[0] not in foreign} & paths
    return paths


async def _landed(
    storage: Storage, contents: Contents, fit: Mapping[Path, Tensor], progress: Progress, *, ahead: bool
) -> tuple[Places | None, dict[Path, Tensor]]:
    """Open what is stored of the live tensors that `fit`, and check it `ahead`; those to be filled are returned."""
    big = {path: tensor for path, tensor in fit.items() if tensor.nbytes >= SMALLEST and tensor.device == CPU}
    if not big or not isinstance(storage, Opening) or not is_plain(contents):  # or everything would be fetched twice
        return None, {}
    into = {path: _place(contents, path, tensor) for path, tensor in big.items()}
    places = Places(storage, storage.url, contents.packs, into, progress.add)
    await asyncio.to_thread(places.open)
    if ahead:
        progress.expect(sum(fit[path].nbytes for path in places.paths))
        await asyncio.to_thread(places.check)
    return places, {path: fit[path] for path in places.paths}


def _later(
    storage: Storage, contents: Contents, paths: Collection[Path], live: Live, fit: Mapping[Path, Tensor]
) -> dict[Path, Tensor]:
    """Where the bytes of those of `paths` belong that need not be there before it is their component's turn."""
    found: dict[Path, Tensor] = {}
    fresh: defaultdict[torch.device, list[Path]] = defaultdict(list)
    for path in can_be_shaped_before(contents).intersection(paths):
        home = live.homes.get(path[:-1], CPU)
        if path in fit:
            home = fit[path].device
        # What is stored beside something else under a parameter's name (a step counter) stays in host memory.
        if home == CPU or contents.tensors[path].nbytes < SMALLEST:
            home = home if path in fit else CPU
        if home == CPU and _is_opened(storage, contents):
            continue
        if path in fit:
            found[path] = fit[path]
        elif any(path[: len(part)] == part for part in live.parts):
            fresh[home].append(path)
    for device, there in fresh.items():
        found |= rooms_for(contents, there, device)
    return found


def _late(
    storage: Storage,
    contents: Contents,
    later: Mapping[Path, Tensor],
    fit: Mapping[Path, Tensor],
    progress: Progress,
) -> Late | None:
    if not later:
        return None
    fresh = tuple(tensor for path, tensor in later.items() if path not in fit)
    return Late(_arrivals(storage, contents, later, progress), fresh, _devices(later))


async def _now(
    storage: Storage, contents: Contents, paths: Collection[Path], device: torch.device, progress: Progress
) -> dict[Path, Tensor]:
    """The tensors at `paths`, in memory of their own on `device`."""
    if device == CPU and _is_opened(storage, contents):
        return tensors_of(contents, await fetch(storage, contents, paths, progress.add))
    rooms = await asyncio.to_thread(rooms_for, contents, paths, device)
    with unloading({device} - {CPU}):
        await _arrivals(storage, contents, rooms, progress).fill(())
    return shaped(contents, rooms, device)


def _is_opened(storage: Storage, contents: Contents) -> bool:
    """Whether files are read where they lie: what is stored in frames comes as from any other store."""
    return isinstance(storage, Opening) and is_plain(contents)


def _arrivals(storage: Storage, contents: Contents, flat: Mapping[Path, Tensor], progress: Progress) -> Arrivals:
    places = {path: _place(contents, path, tensor) for path, tensor in flat.items()}
    devices = _devices(flat)
    follow(devices)  # memory that was asked for just now may be in use until then
    rooms = PinnedRooms(progress.slower) if devices else HostRooms()
    return Arrivals(storage, contents.packs, places, rooms, progress.add)


def _place(contents: Contents, path: Path, tensor: Tensor) -> Any:
    extents = tuple(extent for box in contents.tensors[path].boxes for extent in box.extents)
    return Place(memory_of(tensor), extents, tensor) if tensor.device == CPU else OnDevice(tensor, extents)


def _devices(tensors: Mapping[Path, Tensor]) -> frozenset[torch.device]:
    return frozenset(tensor.device for tensor in tensors.values()) - {CPU}


def live_parts(trees: Mapping[str, Mapping[str, Tree]]) -> Live:
    """What of `trees` a checkpoint may be read straight into."""
    found = [component for tree in trees.values() for component in components(tree)]
    tensors: dict[Path, Tensor] = {}
    homes: dict[Path, torch.device] = {}
    for component in found:
        tensors |= component.landing()
        homes |= component.homes()
    return Live(tensors, frozenset(component.path for component in found), homes)


@contextmanager
def failure_told(listeners: Listeners) -> Iterator[None]:
    """Around a restore: what it raises, the listeners hear of too."""
    try:
        yield
    except Exception as error:
        listeners.emit(RestoreFailed(error))
        raise


def check_world(checkpoint: Checkpoint, world: int) -> None:
    """Refuse a checkpoint of another number of ranks."""
    if checkpoint.world != world:
        raise IncompatibleState(
            f"the checkpoint of step {checkpoint.step} was saved by {checkpoint.world} rank(s), this training has "
            f"{world}: a changed world size is not supported in this version; start as many ranks as before"
        )
