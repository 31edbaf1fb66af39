"""Founding: the run file, which says once and for all what a run is and how it commits."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import RunRefused
from asyncckpt.format import names, runfile
from asyncckpt.format.runfile import RunFile
from asyncckpt.storage.base import Opening, Storage
from asyncckpt.worker.commitlog.commit import create
from asyncckpt.worker.commitlog.home import Home


async def founded(catalog: Catalog, created: int, home: Home | None) -> RunFile:
    """The run file, created if there is none; refuses a store that cannot keep what it says, or another run's."""
    run = await catalog.run()
    if run is None:
        await catalog.check_recorded()  # before anything is written
    publish = await catalog.storage.probe()
    if publish == "none" and isinstance(catalog.storage, Opening):
        # Never "fenced" on file systems: one that was stopped in the middle of its probe, whose files another start has
        # tidied up meanwhile, finds this too, and would write its run file over that of the other.
        raise RunRefused(
            f"{catalog.storage.url} does not create files exclusively (a second create succeeded): two writers could "
            "not exclude each other; use a root on another file system"
        )
    if run is None:
        run = await catalog.run()  # another start may have been faster than the probe
    if run is None:
        number = secrets.token_hex(8) if home is None else home.run
        if publish == "none":
            run = await _begin_fenced(catalog, RunFile(number, "whole", created, "fenced"))
        else:
            run = await _begin(catalog, RunFile(number, publish, created))
    if home is not None and run.id != home.run:
        raise of_another_run(catalog.storage.url, run.id, home.run)
    if run.mode == "exclusive" and publish == "none":
        raise RunRefused(
            f"{catalog.storage.url} was begun where objects are created exclusively; here a second create succeeds, "
            "and two writers could not exclude each other: continue on the former store, or start a new root here"
        )
    if run.publish == "whole" and publish == "torn":
        raise RunRefused(
            f"{catalog.storage.url} was begun on a file system with atomic exclusive creation; this one has "
            "none (no hard links, no exclusive rename): continue on the former, or start a new root here"
        )
    return run


def of_another_run(url: str, theirs: str, ours: str) -> RunRefused:
    """The error for a tier that holds another run than home does."""
    return RunRefused(
        f"{url} holds checkpoints of another run ({theirs}, and the root's is {ours}): give each training a tier of "
        "its own, or move those away"
    )


async def _begin(catalog: Catalog, own: RunFile) -> RunFile:
    """The run file, created as `own` unless another start was faster."""
    if not await create(catalog.storage, names.RUN, own.encode()) and await catalog.run() is None:
        if own.publish == "whole":
            raise runfile.foreign(f"{catalog.storage.url}/{names.RUN}")  # no crash tears one here
        # Torn. Replaced rather than removed first: another start may have completed it and committed by now.
        await bury(catalog.storage, [names.RUN])
        if await catalog.run() is None:
            await catalog.storage.put(names.RUN, [own.encode()])
    run = await catalog.run()
    if run is None:
        raise RunRefused(f"{catalog.storage.url}: {names.RUN} vanished right after it was created")
    return run


async def _begin_fenced(catalog: Catalog, own: RunFile) -> RunFile:
    """The run file as it stands; of two starts at once the later one's, which says the same but for its id."""
    await catalog.storage.put(names.RUN, [own.encode()])
    run = await catalog.run()
    if run is None:
        raise RunRefused(f"{catalog.storage.url}: {names.RUN} vanished right after it was created")
    return run


async def bury(storage: Storage, keys: Iterable[str]) -> None:
    """See to it that a create of `keys` that is still under way, or was torn, is never completed.

    Only torn runs need this: their stores claim a name before they complete the object. Whoever goes past a claim
    must know that it stays one, or the record would count for its writer and not for who went past.
    """
    for key in keys:
        async for upload in storage.uploads(key):
            await storage.abort(upload)
