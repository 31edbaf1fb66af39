"""Each invariant tells a store that is right from one that is wrong in one thing."""

from __future__ import annotations

import pytest

from .explorer import Broken
from .invariants import (
    Catalog,
    durable_stays,
    latest_never_goes_back,
    listed_loads,
    no_zombie_is_visible,
    nothing_unreachable_stays,
    sweep_spares_live_saves,
)
from .vocabulary import Claim, Confirmation, Name, Pack, Process, Record, State, Store, Version


def checkpoint(inc: int, seq: int, writer: str = "A") -> Record:
    """A full checkpoint whose record lists only itself."""
    name, version = Name(inc, seq, writer), Version(inc, seq, writer)
    return Record(name, inc, writer, frozenset({name}), version, seq + 1, version, frozenset({Pack(inc, writer, seq)}))


def catalog(*records: Record) -> Catalog:
    return Catalog(max(records), frozenset(records))


OLD, NEW = checkpoint(1, 1), checkpoint(2, 2)
STORE = Store(frozenset({NEW}), NEW.packs, frozenset({Claim(2, "A")}), frozenset({Confirmation(NEW.name)}))


def test_a_sound_store_breaks_nothing() -> None:
    assert not list(listed_loads(catalog(NEW), STORE, "now"))
    assert not list(durable_stays(frozenset({OLD.latest, NEW.latest}), catalog(NEW), 1, "now"))
    assert not list(latest_never_goes_back(catalog(OLD), catalog(NEW), "now"))
    assert not list(no_zombie_is_visible(catalog(OLD), catalog(NEW), Process("A", inc=2)))
    assert not list(nothing_unreachable_stays(catalog(NEW), STORE))


@pytest.mark.parametrize(
    ("wrong", "store"),
    [
        (Catalog(None, frozenset()), STORE),
        (Catalog(NEW, frozenset(), ("commits/1",)), STORE),
        (catalog(NEW._replace(version=None)), STORE),
        (catalog(NEW), STORE._replace(data=frozenset())),
    ],
    ids=["no head", "a record is gone", "a record without checkpoint", "a pack is gone"],
)
def test_what_is_listed_must_load(wrong: Catalog, store: Store) -> None:
    assert_breaks("I1", list(listed_loads(wrong, store, "now")))


def test_what_was_durable_leaves_only_for_as_many_newer_ones_as_are_kept() -> None:
    assert_breaks("I2", list(durable_stays(frozenset({OLD.latest}), catalog(NEW), 2, "now")))
    rival = checkpoint(2, 2, "B")
    assert_breaks("I2", list(durable_stays(frozenset({rival.latest}), catalog(NEW), 1, "now")))


@pytest.mark.parametrize("after", [OLD, checkpoint(2, 1), checkpoint(2, 2, "B")], ids=["inc", "seq", "aside"])
def test_latest_must_not_go_back(after: Record) -> None:
    assert_breaks("I3", list(latest_never_goes_back(catalog(NEW), catalog(after), "now")))


def test_an_older_incarnation_must_not_be_seen_to_act() -> None:
    older, newer = Process("A", inc=1), Process("B", inc=2)
    assert_breaks("I4", list(no_zombie_is_visible(catalog(NEW), catalog(checkpoint(1, 3)), newer)), count=2)
    assert_breaks("I4", list(no_zombie_is_visible(catalog(NEW), catalog(NEW, OLD), newer)))
    assert_breaks("I4", list(no_zombie_is_visible(catalog(NEW, OLD), catalog(NEW), older)))
    assert not list(no_zombie_is_visible(catalog(NEW, OLD), catalog(NEW), newer))


@pytest.mark.parametrize(
    "left",
    [
        STORE._replace(records=STORE.records | {OLD}),
        STORE._replace(data=STORE.data | OLD.packs),
        STORE._replace(claims=STORE.claims | {Claim(1, "A")}),
        STORE._replace(confirmations=STORE.confirmations | {Confirmation(OLD.name)}),
    ],
    ids=["record", "data", "claim", "confirmation"],
)
def test_nothing_unreachable_may_stay(left: Store) -> None:
    assert_breaks("I5", list(nothing_unreachable_stays(catalog(NEW), left)))


@pytest.mark.parametrize(("inc", "breaks"), [(1, False), (2, True), (3, True)])
def test_the_data_of_a_live_save_must_not_be_deleted(inc: int, breaks: bool) -> None:
    draft = checkpoint(inc, 3, "B")
    saving = Process("B", "commit", inc, draft=draft)
    before = State(STORE._replace(data=STORE.data | draft.packs), (saving,), frozenset())
    after = before._replace(store=STORE)
    found = list(sweep_spares_live_saves(before, after, NEW))
    assert_breaks("I6", found, count=int(breaks))


def test_a_deleted_base_is_not_the_data_of_the_save_in_progress() -> None:
    draft = checkpoint(2, 3, "B")
    saving = Process("B", "commit", 2, draft=draft._replace(packs=draft.packs | OLD.packs))
    before = State(STORE._replace(data=STORE.data | OLD.packs), (saving,), frozenset())
    assert not list(sweep_spares_live_saves(before, before._replace(store=STORE), NEW))


def test_a_missing_head_breaks_nothing_but_loading() -> None:
    gone = Catalog(None, frozenset())
    for before, after in ((catalog(NEW), gone), (gone, catalog(NEW))):
        assert not list(latest_never_goes_back(before, after, "now"))
        assert not list(no_zombie_is_visible(before, after, Process("A", inc=1)))
    assert not list(nothing_unreachable_stays(gone, STORE))


def assert_breaks(invariant: str, found: list[Broken], count: int = 1) -> None:
    assert [broken.invariant for broken in found] == [invariant] * count
