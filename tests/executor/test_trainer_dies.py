"""The trainer is killed: what was staged becomes durable, what was not leaves nothing, and nobody stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.fetching.reading import verify
from asyncckpt.storage import from_url
from asyncckpt.testing.shared import SharedGates

from .conftest import Kill, wait_for_workers, wait_until_alone
from .victim import Counter

pytestmark = pytest.mark.kills


async def _checked(root: Path) -> Listing:
    storage = from_url(root)
    try:
        catalog = Catalog(storage)
        listing = await catalog.listing()
        assert not listing.lost
        for checkpoint in listing.checkpoints:
            await verify(catalog, checkpoint)
        return listing
    finally:
        await storage.aclose()


def steps(root: Path) -> list[int]:
    """The steps that are listed, each verified to its last byte and whole, once no worker is at work there."""
    wait_for_workers(root)
    found = [checkpoint.step for checkpoint in asyncio.run(_checked(root)).checkpoints]
    for step in found:
        counter = Counter()
        counter.load_state_dict(asyncckpt.load(root, step).state["extra"]["counter"])
        assert counter.is_whole()
        assert counter.step == step
    return found


def folders(root: Path) -> list[str]:
    """The folders of attempts that no listed checkpoint is in."""
    listed = {checkpoint.folder for checkpoint in asyncio.run(_checked(root)).checkpoints}
    return [found for path in root.glob("data/*") if (found := f"data/{path.name}") not in listed]


def test_P5_what_was_staged_is_durable_although_the_trainer_is_killed_at_once(killed: Kill, tmp_path: Path) -> None:
    early = 0
    for kill in range(1, 21):
        died = killed("staged", 1)
        assert died["status"] == signal.SIGKILL
        early += died["said"] != ["durable"]
        assert steps(tmp_path / "run")[-1] == kill
    assert early, "every save was durable before its trainer was killed: this showed nothing"


def test_P5_who_restarts_at_once_goes_on_from_what_the_dead_trainer_had_staged(killed: Kill, tmp_path: Path) -> None:
    for kill in range(1, 6):
        killed("staged", 1)
        counter = Counter()
        with AsyncCheckpointer(tmp_path / "run", extra={"counter": counter}, executor="thread") as ckpt:
            assert ckpt.resume().step == kill
        assert counter.is_whole()


def test_P5_an_orphan_applies_no_retention_and_moves_no_hint(killed: Kill, store: SharedGates) -> None:
    root = Path(store.url)
    with store.hold("put", "data/*-step-4-*") as gate:
        killed("hanging", store.url, store.name, 3, 600)
        gate.wait_reached()  # by then all is done that comes of step 3
        hint = (root / "latest").read_bytes()
        wait_until_alone(root)
    assert steps(root) == [2, 3, 4]  # the training keeps two
    assert (root / "latest").read_bytes() == hint
    assert json.loads(hint)["step"] == 3


@pytest.mark.parametrize(("moment", "advances"), [("copying", 1), ("copying_lazily", 2), ("copying_lazily", 3)])
def test_P5_a_snapshot_that_was_not_complete_leaves_nothing(
    killed: Kill, tmp_path: Path, moment: str, advances: int
) -> None:
    assert killed(moment, advances)["status"] == signal.SIGKILL
    root = tmp_path / "run"
    assert steps(root) == [1]
    assert folders(root) == []


def test_P5_the_trainer_may_die_between_any_two_words(killed: Kill, tmp_path: Path) -> None:
    said: list[str] = []
    for number in range(20):
        root = tmp_path / f"run-{number}"
        said = killed("telling", number, root=root)["said"]
        found = steps(root) if root.exists() else []
        assert found == ([1] if "seal" in said else []), said
        assert not root.exists() or folders(root) == [], said
        if number > len(said):
            break
    else:
        pytest.fail(f"a save takes so many words: {said}")
    assert said == ["config", "arena", "layout", "job", "seal", "call"]


def test_P5_answers_that_nobody_read_hide_no_last_words(killed: Kill, tmp_path: Path) -> None:
    killed("deaf")
    assert steps(tmp_path / "run") == [1, 2, 3]


def test_P5_staged_means_that_the_worker_is_there_and_knows(killed: Kill, tmp_path: Path) -> None:
    killed("at_once")
    assert steps(tmp_path / "run") == [1]


def test_P5_a_child_that_holds_the_socket_does_not_hide_the_death(killed: Kill, tmp_path: Path) -> None:
    (child,) = killed("forking", 1)["said"]
    try:
        assert steps(tmp_path / "run") == [1, 2]
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_P5_what_kills_the_trainers_group_does_not_reach_the_worker(
    killed: Kill, tmp_path: Path, number: signal.Signals
) -> None:
    assert killed("leading", int(number))["status"] & 0x7F == number
    assert steps(tmp_path / "run") == [1, 2]


def test_P5_what_was_reported_durable_is_there(killed: Kill, tmp_path: Path) -> None:
    last = 0
    for _ in range(5):
        told = killed("durable", 4)["said"]
        found = steps(tmp_path / "run")
        assert found[-1] >= max([last, *told])
        last = found[-1]
    assert last >= 5
