"""``cp`` and ``sync``: checkpoints in another root, whole or not listed, under the ids that they have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, load
from asyncckpt.errors import StorageDenied
from asyncckpt.sizes import size
from asyncckpt.storage import LocalStorage

from .conftest import Document, Run, Saved, Tied, flip, train, tree

if TYPE_CHECKING:
    from asyncckpt.storage.base import ObjectInfo, Parts
    from asyncckpt.testing.s3server import S3Server


def ids(document: Document, root: object) -> list[str]:
    return [row["id"] for row in document("ls", root)["checkpoints"]]


def test_all_of_a_run_is_the_same_run_in_another_root(
    run: Run, document: Document, saved: Saved, tmp_path: Path
) -> None:
    before, other = tree(saved.root), tmp_path / "other"
    done = run("sync", saved, other)
    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.split("  ")[:2] for line in done.stdout.splitlines()] == [
        ["00000001", "step 10"],
        ["00000002", "step 20"],
        ["00000003", "step 30"],
    ]
    assert tree(saved.root) == before
    assert document("ls", other)["checkpoints"] == document("ls", saved)["checkpoints"]
    assert run("verify", other).exit_code == 0
    for step in (10, 20, 30):
        theirs, ours = load(other, step).state["model"], load(saved.root, step).state["model"]
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert run("gc", other).stdout == "nothing to remove\n"


def test_a_training_goes_on_from_the_copy(run: Run, document: Document, saved: Saved, tmp_path: Path) -> None:
    run("sync", saved, tmp_path / "other")
    with AsyncCheckpointer(tmp_path / "other", model=Tied(), executor="thread") as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert state.step == 30
        ckpt.save(40).wait()
    assert ids(document, tmp_path / "other") == ["00000001", "00000002", "00000003", "00000004"]
    done = run("sync", saved, tmp_path / "other")
    assert "3 of 3 not newer than what" in done.stderr
    with AsyncCheckpointer(saved.root, model=Tied(), executor="thread") as ckpt:
        ckpt.resume()
        ckpt.save(50).wait()
        ckpt.save(60).wait()
    done = run("sync", saved, tmp_path / "other")
    assert (done.exit_code, done.stdout) == (4, "")
    assert re.search(
        r"is in the hands of incarnation 2 \(process \d+ on .*so copy to another root$", done.stderr.strip()
    )
    assert ids(document, tmp_path / "other") == ["00000001", "00000002", "00000003", "00000004"]


def test_only_what_is_newer_is_copied_the_next_time(run: Run, document: Document, saved: Saved, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("cp", f"{saved}@10", other).stdout.startswith("00000001  step 10  copied, ")
    assert ids(document, other) == ["00000001"]
    would = document("sync", saved, other, "--dry-run")
    assert [(row["id"], row["state"]) for row in would["checkpoints"]] == [
        ("00000002", "lacking"),
        ("00000003", "lacking"),
    ]
    assert ids(document, other) == ["00000001"]
    told = document("sync", saved, other)
    assert (told["ok"], told["wanted"]) == (True, 3)
    assert [row["state"] for row in told["checkpoints"]] == ["copied", "copied"]
    assert all(row["bytes"] > 0 for row in told["checkpoints"])
    assert document("sync", saved, other)["checkpoints"] == []
    assert ids(document, other) == ["00000001", "00000002", "00000003"]


def test_a_dry_run_says_what_would_be_copied_and_copies_nothing(
    run: Run, document: Document, saved: Saved, tmp_path: Path
) -> None:
    rows = document("ls", saved)["checkpoints"]
    lines = [f"{row['id']}  step {row['step']}  would be copied, {size(row['size'])} of state" for row in rows]
    for command, wanted in (("sync", lines), ("cp", lines[-1:])):
        done = run(command, saved, tmp_path / "other", "--dry-run")
        assert (done.exit_code, done.stdout.splitlines(), done.stderr) == (0, wanted, "")
        found = document(command, saved, tmp_path / "other", "--dry-run")
        assert (found["source"], found["destination"]) == (str(saved), str(tmp_path / "other"))
        assert [row["state"] for row in found["checkpoints"]] == ["lacking"] * len(wanted)
    assert not (tmp_path / "other").exists()


def test_what_is_said_of_either_root_is_said_of_it_alone(
    run: Run, document: Document, saved: Saved, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    run("cp", f"{saved}@10", other)
    run("tag", f"{other}@10", "there")
    run("tag", f"{saved}@30", "here")
    run("pin", f"{saved}@20")
    assert run("prune", saved, "--keep-last", 1, "--yes").exit_code == 0
    assert ids(document, saved) == ["00000002", "00000003"]
    assert run("sync", saved, other).exit_code == 0
    rows = document("ls", other)["checkpoints"]
    assert [(row["step"], row["tags"], row["pinned"]) for row in rows] == [
        (10, ["there"], False), (20, [], False), (30, [], False),
    ]  # fmt: skip


def test_what_is_pruned_on_either_side_can_be_copied_to_all_the_same(
    run: Run, document: Document, saved: Saved, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    run("cp", f"{saved}@10", other)
    run("cp", f"{saved}@20", other)
    assert run("prune", other, "--keep-last", 1, "--yes").exit_code == 0
    assert run("prune", saved, "--keep-last", 1, "--yes").exit_code == 0
    assert run("sync", saved, other).exit_code == 0
    assert ids(document, other) == ids(document, saved) == ["00000002", "00000003"]
    with AsyncCheckpointer(saved.root, model=Tied(), executor="thread") as ckpt:
        ckpt.resume()
        ckpt.save(40).wait()
    assert run("sync", saved, other).exit_code == 0
    assert ids(document, other) == ["00000002", "00000003", "00000004"]


def test_the_latest_is_the_default_and_a_selector_names_another(
    run: Run, document: Document, saved: Saved, tmp_path: Path
) -> None:
    run("cp", saved, tmp_path / "one")
    run("cp", f"{saved}@best", tmp_path / "two")
    assert (ids(document, tmp_path / "one"), ids(document, tmp_path / "two")) == (["00000003"], ["00000002"])
    assert run("cp", f"{saved}@99", tmp_path / "three").exit_code == 3
    assert not (tmp_path / "three").exists()


def test_what_a_checkpoint_shares_with_others_comes_along(run: Run, tmp_path: Path) -> None:
    model = nn.ModuleDict({"frozen": nn.Linear(64, 64), "head": nn.Linear(2, 2)})
    with AsyncCheckpointer(tmp_path / "run", model=model, executor="thread") as ckpt:
        for step in (1, 2):
            model["head"].weight.data.fill_(step)
            ckpt.save(step).wait()
    run("cp", tmp_path / "run", tmp_path / "other")
    assert run("verify", tmp_path / "other").exit_code == 0
    found = load(tmp_path / "other").state["model"]
    assert torch.equal(found["frozen.weight"], model["frozen"].weight)
    assert found["head.weight"].min().item() == 2


def test_the_latest_is_the_one_that_it_is_there(run: Run, document: Document, saved: Saved, tmp_path: Path) -> None:
    with AsyncCheckpointer(saved.root, model=Tied(), executor="thread") as ckpt:
        ckpt.resume(which=10)
    run("sync", saved, tmp_path / "other")
    latest = [row["id"] for row in document("ls", tmp_path / "other")["checkpoints"] if row["latest"]]
    assert latest == ["00000001"]


def test_what_is_damaged_is_told_and_never_listed(run: Run, document: Document, saved: Saved, tmp_path: Path) -> None:
    flip(saved.pack(2))
    done = run("sync", saved, tmp_path / "other")
    assert done.exit_code == 1
    assert "00000002  step 20  damaged, and not copied: " in done.stdout
    assert ids(document, tmp_path / "other") == ["00000001", "00000003"]
    assert run("verify", tmp_path / "other").exit_code == 0
    found = document("cp", f"{saved}@20", tmp_path / "third")
    (row,) = found["checkpoints"]
    assert (found["ok"], row["state"], row["bytes"]) == (False, "damaged", None)
    assert "does not match its digest" in row["reason"]


def test_what_was_interrupted_lists_nothing_half_and_goes_on(
    run: Run, document: Document, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, real, puts = tmp_path / "other", LocalStorage.put, list[str]()

    async def full(storage: LocalStorage, key: str, parts: Parts, **said: Any) -> ObjectInfo:
        if storage.url == str(other) and key.endswith("manifest.json") and "step-20" in key:
            raise StorageDenied("the disk is full")
        if storage.url == str(other):
            puts.append(key)
        return await real(storage, key, parts, **said)

    monkeypatch.setattr(LocalStorage, "put", full)
    assert run("sync", saved, other).exit_code == 4
    assert ids(document, other) == ["00000001"]
    assert run("verify", other).exit_code == 0
    monkeypatch.setattr(LocalStorage, "put", real)
    written = {key for key in puts if "step-20" in key}
    assert written, "its pack had got there"
    before = {key: (other / key).stat().st_ino for key in written}
    assert run("sync", saved, other).exit_code == 0
    assert {key: (other / key).stat().st_ino for key in written} == before, "it was not written again"
    assert ids(document, other) == ["00000001", "00000002", "00000003"]


def test_another_run_is_never_mixed_in(run: Run, document: Document, saved: Saved, tmp_path: Path) -> None:
    train(tmp_path / "another")
    for command in ("sync", "cp"):
        done = run(command, saved, tmp_path / "another")
        assert done.exit_code == 1
        assert "holds checkpoints of another run" in done.stderr
    assert run("verify", tmp_path / "another").exit_code == 0
    assert "is where they are" in run("sync", saved, saved).output
    assert "use cp" in run("sync", f"{saved}@10", tmp_path / "other").output
    done = run("sync", tmp_path / "none", tmp_path / "other")
    assert (done.exit_code, done.stderr) == (3, f"{tmp_path / 'none'} holds no checkpoints: there is no such folder\n")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", ["cp", "sync"])
def test_no_root_is_put_into_another(run: Run, saved: Saved, command: str) -> None:
    (saved.root.parent / "link").symlink_to(saved.root, target_is_directory=True)
    before = tree(saved.root.parent)
    for destination, said in {
        saved.root / "copy": "is inside of the root that they are in: name one beside it",
        saved.root.parent / "link" / "copy": "is inside of the root that they are in",
        saved.root.parent / "link": "is where they are",
        saved.root.parent: "is the folder that the root is in, and would be a run itself: name one in it",
    }.items():
        done = run(command, saved, destination)
        assert (done.exit_code, f"{destination} {said}" in done.output) == (2, True), done.output
    assert tree(saved.root.parent) == before
    assert run(command, saved, f"{saved}-2", "--dry-run").exit_code == 0, "a name that only begins so"


def test_a_run_goes_to_a_bucket_and_comes_back(
    run: Run, document: Document, saved: Saved, bucket: str, s3: S3Server, tmp_path: Path
) -> None:
    run("cp", f"{saved}@10", bucket)
    assert run("sync", saved, bucket).exit_code == 0
    assert s3.stored(bucket)[1] == []
    run("sync", bucket, tmp_path / "back")
    assert document("ls", tmp_path / "back")["checkpoints"] == document("ls", saved)["checkpoints"]
    assert run("verify", tmp_path / "back").exit_code == 0
