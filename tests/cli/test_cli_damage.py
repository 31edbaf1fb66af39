"""Damage on the command line: verify --note notes it, ls and show tell it, prune goes by it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import StorageDenied
from asyncckpt.storage import LocalStorage

from .conftest import Document, Run, Saved, Tied, flip, tree

if TYPE_CHECKING:
    from asyncckpt.storage.base import ObjectInfo


def noted(saved: Saved) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in saved.root.glob("user/*-damaged-*.json"))


def kept(document: Document, saved: Saved) -> dict[int, list[str]]:
    """What a prune to the last would keep, and why."""
    planned = document("prune", saved, "--keep-last", 1, "--dry-run")
    return {found["step"]: found["reasons"] for found in planned["kept"]}


BEST = "best val_loss, 0.25"


def test_what_verify_finds_damaged_takes_the_place_of_nothing_sound_until_it_finds_it_sound(
    run: Run, document: Document, saved: Saved
) -> None:
    assert kept(document, saved) == {20: [BEST], 30: ["latest", "last 1"]}
    flip(saved.pack(3))
    assert run("verify", saved, "--note").exit_code == 1
    assert noted(saved) == [3]
    assert kept(document, saved) == {20: [BEST, "last 1"], 30: ["latest", "damaged"]}
    assert run("prune", saved, "--keep-last", 1, "--yes").exit_code == 0
    assert run("verify", f"{saved}@20", "--note").exit_code == 0
    flip(saved.pack(3))
    assert run("verify", saved, "--quick", "--note").exit_code == 0
    assert noted(saved) == [3], "a quick look has not seen every byte"
    assert run("verify", saved, "--note").exit_code == 0
    assert noted(saved) == []
    assert kept(document, saved) == {20: [BEST], 30: ["latest", "last 1"]}


def test_the_best_that_is_damaged_takes_the_place_of_no_sound_one(run: Run, document: Document, saved: Saved) -> None:
    saved.pack(2).unlink()
    run("verify", f"{saved}@20", "--quick", "--note")
    planned = document("prune", saved, "--keep-best", 1, "--dry-run")
    assert [found["step"] for found in planned["removed"]] == [10]
    assert planned["kept"][0]["reasons"] == ["damaged"]


def test_ls_and_show_tell_it(run: Run, document: Document, saved: Saved) -> None:
    flip(saved.pack(2))
    run("verify", saved, "--note")
    lines = run("ls", saved).stdout.splitlines()
    assert ["damaged" in line for line in lines] == [False, False, True, False]
    assert [found["damaged"] for found in document("ls", saved)["checkpoints"]] == [False, True, False]
    damage = document("show", f"{saved}@20")["damage"]
    assert (damage["kind"], "does not match its digest" in damage["reason"]) == ("content", True)
    assert {"found", "by"} < damage.keys()
    told = run("show", f"{saved}@20").stdout
    assert "does not match its digest" in told
    assert "ago by" in told
    assert document("show", f"{saved}@30")["damage"] is None


@pytest.mark.parametrize("repaired", [False, True])
def test_a_root_that_can_only_be_read_is_checked_all_the_same(
    run: Run, saved: Saved, monkeypatch: pytest.MonkeyPatch, repaired: bool
) -> None:
    async def denied(self: LocalStorage, *args: object, **options: object) -> ObjectInfo:
        raise StorageDenied(errno.EROFS, "Read-only file system")

    flip(saved.pack(2))
    if repaired:
        run("verify", saved, "--note")
        flip(saved.pack(2))
    monkeypatch.setattr(LocalStorage, "put", denied)
    monkeypatch.setattr(LocalStorage, "delete", denied)
    before = tree(Path(saved.root))
    result = run("verify", saved, "--note")
    assert result.exit_code == (0 if repaired else 1)
    what = "sound again" if repaired else "damaged"
    assert result.stderr == f"that 00000002 is {what} could not be noted: Read-only file system\n"
    assert tree(Path(saved.root)) == before


def test_nothing_is_noted_unless_somebody_wants_it(run: Run, saved: Saved) -> None:
    flip(saved.pack(2))
    assert run("verify", saved).exit_code == 1
    assert noted(saved) == []
    run("verify", saved, "--note")
    flip(saved.pack(2))
    assert run("verify", saved).exit_code == 0
    assert noted(saved) == [2]


# -- to be rid of it -------------------------------------------------------------------------------------------


def test_what_is_damaged_goes_only_where_somebody_says_so(run: Run, document: Document, saved: Saved) -> None:
    for seq in (1, 2):
        flip(saved.pack(seq))
    run("verify", saved, "--note")
    run("pin", f"{saved}@20")
    assert run("prune", saved, "--keep-last", 1, "--yes").stdout.endswith("0 of 3 to remove, 0 B to free\n")
    planned = document("prune", saved, "--damaged", "--yes")
    assert [(found["step"], found["reason"]) for found in planned["removed"]] == [(10, "damaged")]
    assert [(found["step"], found["reasons"]) for found in planned["kept"]] == [
        (20, ["pinned"]),
        (30, ["latest", "everything is kept"]),
    ]
    assert [found["step"] for found in document("ls", saved)["checkpoints"]] == [20, 30]
    assert noted(saved) == [1, 2], "a word of something gone is taken away at the next start"
    assert run("prune", saved, "--keep-last", 1, "--take-over", "--yes").exit_code == 0


def test_the_latest_stays_though_it_is_damaged(run: Run, document: Document, saved: Saved) -> None:
    flip(saved.pack(3))
    run("verify", saved, "--note")
    assert document("prune", saved, "--damaged", "--keep-last", 1, "--yes")["kept"][-1]["reasons"] == ["latest"]


def test_a_training_that_holds_the_run_removes_what_was_known_to_be_damaged(
    run: Run, document: Document, saved: Saved
) -> None:
    flip(saved.pack(1))
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    with AsyncCheckpointer(saved.root, model=model, optimizer=optimizer, monitor=("val_loss", "min")) as ckpt:
        ckpt.resume()
        run("verify", saved, "--note")
        assert document("prune", saved, "--keep-last", 1, "--yes")["removed"] == []
        assert document("prune", saved, "--damaged", "--yes")["done"].startswith("asked process ")
        ckpt.save(40).wait()
        ckpt.wait()
        assert [info.step for info in ckpt.checkpoints()] == [20, 30, 40]


def test_a_lost_record_is_in_the_plan_and_stays(run: Run, saved: Saved) -> None:
    saved.record(1).unlink()
    lines = run("prune", saved, "--damaged", "--keep-last", 1, "--yes").stdout.splitlines()
    assert lines[1].split() == ["slot", "2", "keep", "damaged:", "its", "record", "is", "lost"]


@pytest.mark.parametrize("command", [("pin",), ("unpin",), ("tag", "good")])
def test_to_mark_one_whose_record_is_lost_tells_of_the_loss(run: Run, saved: Saved, command: tuple[str, ...]) -> None:
    record = saved.record(1)
    record.unlink()
    verb, *words = command
    result = run(verb, f"{saved}@10", *words)
    assert result.exit_code == 1
    assert "or its record is one that is lost" in result.stderr
    assert record.name in result.stderr
