"""``asyncckpt verify``: what it finds, and what it says where it cannot find out."""

from __future__ import annotations

import asyncio
import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from torch import nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.cli.verdict import Verdict, exit_for_all, judge
from asyncckpt.errors import StorageDenied, StorageError, TransientError
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from .conftest import Document, Run, Saved, flip

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncckpt.cli.verdict import State


def test_each_sound_checkpoint_is_one_line(run: Run, saved: Saved) -> None:
    for mode in ("--full", "--quick"):
        result = run("verify", saved, mode)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == "00000001  step 10  ok\n00000002  step 20  ok\n00000003  step 30  ok\n"


def test_the_json_has_these_keys(document: Document, saved: Saved) -> None:
    assert document("verify", f"{saved}@20", "--quick") == {
        "schema": 1,
        "root": str(saved),
        "full": False,
        "ok": True,
        "checkpoints": [{"id": "00000002", "step": 20, "state": "ok", "reason": None}],
    }
    saved.pack(2).unlink()
    found = document("verify", f"{saved}@20")
    assert (found["full"], found["ok"]) == (True, False)
    assert "is missing" in found["checkpoints"][0]["reason"]


def damage_byte(saved: Saved) -> None:
    flip(saved.pack(2))


def damage_header(saved: Saved) -> None:
    flip(saved.pack(2), 20)


def cut_pack(saved: Saved) -> None:
    saved.pack(2).write_bytes(saved.pack(2).read_bytes()[:-1])


def remove_pack(saved: Saved) -> None:
    saved.pack(2).unlink()


def damage_manifest(saved: Saved) -> None:
    flip(saved.manifest(2), 100)


def swap_manifest(saved: Saved) -> None:
    saved.manifest(2).write_bytes(saved.manifest(1).read_bytes())


@pytest.mark.parametrize(
    ("damage", "quick_sees_it"),
    [
        (damage_byte, False),
        (damage_header, True),
        (cut_pack, True),
        (remove_pack, True),
        (damage_manifest, True),
        (swap_manifest, True),
    ],
)
def test_damage_is_found_and_the_others_are_checked_all_the_same(
    run: Run, saved: Saved, damage: Callable[[Saved], None], quick_sees_it: bool
) -> None:
    damage(saved)
    result = run("verify", saved)
    assert result.exit_code == 1
    assert re.fullmatch(
        rf"00000001  step 10  ok\n00000002  step 20  damaged: {saved}/data/00000002.*\n00000003  step 30  ok\n",
        result.stdout,
    )
    assert run("verify", saved, "--quick").exit_code == int(quick_sees_it)


def test_a_lost_record_is_damage_and_nobody_knows_its_step(run: Run, document: Document, saved: Saved) -> None:
    record = saved.record(1)
    flip(record, 40)
    result = run("verify", saved)
    assert result.exit_code == 1
    assert re.match(rf"slot {int(record.stem)}  damaged: .*{record.name}.*\n00000002  step 20  ok", result.stdout)
    lost = document("verify", saved)["checkpoints"][0]
    assert (lost["id"], lost["step"], lost["state"]) == (f"slot {int(record.stem)}", None, "damaged")


def test_one_that_is_named_is_checked_alone(run: Run, saved: Saved) -> None:
    flip(saved.pack(1))
    flip(saved.record(2), 40)
    result = run("verify", f"{saved}@latest")
    assert (result.exit_code, result.stdout) == (0, "00000003  step 30  ok\n")
    assert run("verify", f"{saved}@10").exit_code == 1


def test_where_nothing_was_saved_nothing_is_called_sound(run: Run, tmp_path: Path) -> None:
    assert run("verify", tmp_path).exit_code == 3
    assert run("verify", tmp_path / "none", "--json").exit_code == 3
    assert run("verify", f"{tmp_path}@latest").exit_code == 3


# -- a store that fails ------------------------------------------------------------------------------------


def judged(store: GatedStorage, pattern: str, error: StorageError | None, *, full: bool = True) -> Verdict:
    """The verdict on the latest checkpoint in `store` while it answers ``get`` with `error`."""

    async def act() -> Verdict:
        catalog = Catalog(store)
        latest = (await catalog.listing()).find("latest")
        if error is not None:
            store.fail("get", pattern, lambda: error)
        return await judge(catalog, latest, full=full)

    return asyncio.run(act())


@pytest.fixture
def store(tmp_path: Path) -> GatedStorage:
    """A store with one checkpoint, of step 1."""
    gated = GatedStorage(MemoryStorage(str(tmp_path)))
    with AsyncCheckpointer(gated, model=nn.Linear(2, 2)) as ckpt:
        ckpt.save(1).wait()
    return gated


@pytest.mark.parametrize("pattern", ["*.safetensors", "*/manifest.json"])
@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TransientError("busy"), "unread"),
        (StorageDenied(errno.EACCES, "permission denied"), "unread"),
        (StorageError(errno.EIO, "input/output error"), "damaged"),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_a_store_that_fails_says_nothing_about_the_bytes_unless_it_cannot_read_them_at_all(
    store: GatedStorage, pattern: str, error: StorageError, state: State, full: bool
) -> None:
    found = judged(store, pattern, error, full=full)
    assert found.state == state
    assert (error.strerror or "busy") in (found.reason or "")


def test_a_store_that_answers_gives_a_sound_checkpoint(store: GatedStorage) -> None:
    assert judged(store, "*", None) == Verdict("00000001", 1, "ok")


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ("ok ok", 0),
        ("ok removed", 0),
        ("removed", 3),
        ("", 3),
        ("ok unread", 4),
        ("unread removed damaged ok", 1),
    ],
)
def test_the_worst_verdict_is_the_status(states: str, status: int) -> None:
    assert exit_for_all([Verdict("", None, cast("State", state)) for state in states.split()]) == status
