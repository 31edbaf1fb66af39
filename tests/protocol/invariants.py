"""What must hold: I1 to I6, each as one function that yields how it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .explorer import Broken
from .vocabulary import Process, Record, State, Store, Version


class Catalog(NamedTuple):
    """What a reader sees: the head, the checkpoints it lists, and what it cannot find."""

    head: Record | None
    checkpoints: frozenset[Record]
    lost: tuple[str, ...] = ()


def listed_loads(catalog: Catalog, store: Store, when: str) -> Iterator[Broken]:
    """I1: every listed checkpoint loads bit-exact: its record and every pack it names are there."""
    if catalog.head is None:
        yield Broken("I1", f"{when} there is no head")
    for name in catalog.lost:
        yield Broken("I1", f"{when} {name} is listed and gone")
    for record in catalog.checkpoints:
        if record.version is None:
            yield Broken("I1", f"{when} {record} is listed and no checkpoint")
        if not record.packs <= store.data:
            gone = ", ".join(str(pack) for pack in sorted(record.packs - store.data))
            yield Broken("I1", f"{when} {record} is listed and {gone} is gone")


def durable_stays(reported: frozenset[Version], catalog: Catalog, keep: int, when: str) -> Iterator[Broken]:
    """I2: what was reported durable is lost only by retention, that is once `keep` newer ones are listed."""
    listed = {record.version for record in catalog.checkpoints if record.version is not None}
    for version in reported - listed:
        if sum(other.newer_than(version) for other in listed) < keep:
            yield Broken("I2", f"{when} checkpoint {version} is not listed; it was reported durable")


def latest_never_goes_back(before: Catalog, after: Catalog, when: str) -> Iterator[Broken]:
    """I3: latest never goes back, nor aside (no explicit rollback is modelled)."""
    if before.head is None or after.head is None:
        return  # that is a matter of I1
    old, new = before.head.latest, after.head.latest
    if new != old and not new.newer_than(old):
        yield Broken("I3", f"{when} latest goes from {old} to {new}")


def no_zombie_is_visible(before: Catalog, after: Catalog, actor: Process | None) -> Iterator[Broken]:
    """I4: no commit or prune of an older incarnation is visible once a newer one has taken over."""
    if before.head is None or after.head is None:
        return  # that is a matter of I1
    owner = before.head.inc
    if after.head.inc < owner:
        yield Broken("I4", f"the head goes back from incarnation {owner} to {after.head.inc}")
    for record in after.checkpoints - before.checkpoints:
        if record.inc < owner:
            yield Broken("I4", f"{record} appears, though incarnation {owner} has taken over")
    if actor is not None and 0 < actor.inc < owner and before.checkpoints - after.checkpoints:
        yield Broken("I4", f"incarnation {actor.inc} removes a checkpoint; {owner} has taken over")


def nothing_unreachable_stays(catalog: Catalog, store: Store) -> Iterator[Broken]:
    """I5: after the next start's sweep only what the head needs is left; `catalog` is that head's view."""
    head = catalog.head
    if head is None:
        return
    needed = catalog.checkpoints | {head}
    named = {pack for record in catalog.checkpoints for pack in record.packs}
    names = {record.name for record in needed}
    left: list[object] = [*(store.records - needed), *(store.data - named)]
    left += [claim for claim in store.claims if claim.inc != head.inc]
    left += [ok for ok in store.confirmations if ok.name not in names]
    for thing in left:
        yield Broken("I5", f"a restart's sweep leaves {thing}")


def sweep_spares_live_saves(before: State, after: State, head: Record | None) -> Iterator[Broken]:
    """I6: nobody deletes the data of a save in progress whose writer holds the run, by the `head` before."""
    deleted = before.store.data - after.store.data
    if not deleted or head is None:
        return
    for process in after.processes:
        if process.inc >= head.inc and process.draft is not None:
            for pack in process.draft.packs & deleted:
                if pack.inc == process.inc:
                    yield Broken("I6", f"{pack} is deleted; {process.name} is committing it")
