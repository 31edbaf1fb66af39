"""What a key vouches for: that a checkpoint is of this run, step and place, and that whoever wrote it had the key."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import asyncckpt
from asyncckpt import AsyncCheckpointer, SavePolicy, keys
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import CheckpointCorruptError, NotEncrypted, UnsupportedFormat
from asyncckpt.events import Damaged, Fallback
from asyncckpt.format import FORMAT, HIDDEN, names, record
from asyncckpt.format.digest import digest
from asyncckpt.format.manifest import decode
from asyncckpt.format.record import Checkpoint
from asyncckpt.format.sealed import unseal
from asyncckpt.storage.local import LocalStorage
from asyncckpt.worker.copying import Copying
from asyncckpt.worker.pace import Pace

from ..checkpointer.trainings import Recorder
from .test_checkpoints import Model, checkpointer, everything, packs, same, trained


def put_in_place(source: Path, target: Path) -> None:
    """All of a run's checkpoints become another's: its folders and its records, but not what says which run it is."""
    for folder in ("data", "commits"):
        shutil.rmtree(target / folder)
        shutil.copytree(source / folder, target / folder)


def rewrite(root: Path, step: int, change: Callable[[Checkpoint], Checkpoint]) -> None:
    """Change what the record of a step says of its checkpoint; records are not secret, and everybody can seal one."""
    for path in (root / "commits").iterdir():
        found = record.decode(path.read_bytes(), path.name)
        if found.checkpoint is not None and found.checkpoint.step == step:
            path.write_bytes(replace(found, checkpoint=change(found.checkpoint)).encode())


def checkpoint_of(root: Path, step: int) -> Checkpoint:
    async def act() -> Checkpoint:
        storage = LocalStorage(root)
        try:
            return (await Catalog(storage).listing()).find(step)
        finally:
            await storage.aclose()

    return asyncio.run(act())


# -- in another's place ------------------------------------------------------------------------------------


@pytest.mark.executors
def test_a20_a_checkpoint_of_another_run_with_the_same_key_is_not_taken(
    tmp_path: Path, key: str, executor: str
) -> None:
    root, seen = tmp_path / "run", Recorder()
    trained(root, "aes256gcm", 1, 2)
    trained(tmp_path / "other", "aes256gcm", 1, 2)
    put_in_place(tmp_path / "other", root)
    with pytest.raises(CheckpointCorruptError, match=r"is of run [0-9a-f]{16}, and this is run [0-9a-f]{16}"):
        asyncckpt.load(root)
    model = Model()
    with checkpointer(root, model, "aes256gcm", listeners=[seen], executor=executor) as ckpt:
        with pytest.raises(CheckpointCorruptError, match="all 2 checkpoints of this run are damaged"):
            ckpt.resume()
        with pytest.raises(CheckpointCorruptError, match="is of run"):
            ckpt.restore(1)
    assert {event.step for event in seen.of(Damaged)} == {1, 2}
    assert same(model.state_dict(), Model().state_dict())


@pytest.mark.parametrize("codec", [None, "aes256gcm"])
def test_a20_a_checkpoint_in_the_place_of_another_step_is_not_taken(
    tmp_path: Path, key: str, codec: str | None
) -> None:
    """Nor one whose record says something else of it: what is authentic is what the manifest says."""
    changes: dict[str, Callable[[Checkpoint, Checkpoint], Checkpoint]] = {
        "the manifest of another": lambda newer, older: replace(newer, manifest=older.manifest, packs=older.packs),
        "another step": lambda newer, older: replace(newer, step=7),
        "another number of ranks": lambda newer, older: replace(newer, world=2),
    }
    for name, change in changes.items():
        root = tmp_path / name
        trained(root, codec, 1, 2)
        older = checkpoint_of(root, 1)
        rewrite(root, 2, lambda newer, change=change, older=older: change(newer, older))
        with pytest.raises(CheckpointCorruptError, match="is the manifest of another checkpoint"):
            asyncckpt.load(root)
        assert asyncckpt.load(root, 1).info.step == 1


@pytest.mark.parametrize("codec", [None, "aes256gcm"])
def test_a20_a_checkpoint_in_the_folder_of_another_is_not_taken(tmp_path: Path, key: str, codec: str | None) -> None:
    root = tmp_path / "run"
    trained(root, codec, 1, 2)
    older, newer = checkpoint_of(root, 1), checkpoint_of(root, 2)
    shutil.copy(root / older.manifest.key, root / newer.manifest.key)
    there = replace(older.manifest, key=newer.manifest.key)
    rewrite(root, 2, lambda said: replace(said, seq=older.seq, step=older.step, manifest=there))
    with pytest.raises(CheckpointCorruptError, match="is the manifest of another checkpoint"):
        asyncckpt.load(root)


# -- plain, where it ought to be encrypted -----------------------------------------------------------------


@pytest.mark.executors
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_a20_one_that_is_not_encrypted_is_refused_where_the_policy_encrypts(
    tmp_path: Path, key: str, codec: str | None, executor: str
) -> None:
    root, seen = tmp_path / "run", Recorder()
    trained(root, "aes256gcm", 1, 2)
    trained(tmp_path / "forged", codec, 1, 2)
    put_in_place(tmp_path / "forged", root)
    before, model = everything(root / "data"), Model()
    with checkpointer(root, model, "aes256gcm", listeners=[seen], executor=executor) as ckpt:
        for act in (ckpt.resume, ckpt.restore, lambda: ckpt.restore(1)):
            with pytest.raises(NotEncrypted, match=r"step \d in .* is not encrypted.*accept_plain=True"):
                act()
    assert seen.of(Damaged) == [], "nothing is wrong with it but that"
    assert same(model.state_dict(), Model().state_dict())
    assert everything(root / "data") == before
    with pytest.raises(NotEncrypted, match="only_encrypted"):
        asyncckpt.load(root, only_encrypted=True)
    assert asyncckpt.load(root).info.step == 2, "where nothing is said of encryption"


@pytest.mark.executors
def test_a20_a_run_that_was_not_encrypted_before_is_gone_on_with_where_that_is_said(
    tmp_path: Path, key: str, executor: str
) -> None:
    root = tmp_path / "run"
    expected = trained(root, None, 1)
    model = Model()
    model.wipe()
    migrating = SavePolicy(codec="aes256gcm", accept_plain=True)
    with AsyncCheckpointer(root, model=model, save=migrating, executor=executor) as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert same(model.state_dict(), expected)
        model.train_to(2)
        ckpt.save(2).wait()
    with AsyncCheckpointer(root, model=model, save=SavePolicy(codec="aes256gcm"), executor=executor) as ckpt:
        assert ckpt.resume().step == 2
        with pytest.raises(NotEncrypted):
            ckpt.restore(1)
    assert asyncckpt.load(root, only_encrypted=True).info.step == 2


def test_a20_to_accept_what_is_not_refused_means_nothing() -> None:
    for codec in (None, "zstd"):
        with pytest.raises(ValueError, match="accept_plain"):
            SavePolicy(codec=codec, accept_plain=True)


def test_a20_a_tier_is_held_to_it_too(tmp_path: Path, key: str) -> None:
    """Which of them is read is not the user's choice."""
    root, near = tmp_path / "run", tmp_path / "near"
    trained(root, "aes256gcm", 1, local=near)
    forged = tmp_path / "forged"
    trained(forged, None, 1)
    number = names.directory_of(checkpoint_of(root, 1).manifest.key)
    put_in_place(forged, near)
    put_in_place(forged, root)
    assert number is not None
    with (
        checkpointer(root, Model(), "aes256gcm", local=near) as ckpt,
        pytest.raises(NotEncrypted),
    ):
        ckpt.restore("latest")


# -- what is in the clear ----------------------------------------------------------------------------------


class Nothing:
    """A state without a tensor."""

    def state_dict(self) -> dict[str, int]:
        return {"secret": 7}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


def manifest_in(root: Path, step: int) -> bytes:
    return (root / checkpoint_of(root, step).manifest.key).read_bytes()


def test_a20_a_known_architecture_cannot_be_told_by_the_digest_of_its_header(tmp_path: Path, key: str) -> None:
    trained(tmp_path / "plain", None, 1)
    trained(tmp_path / "run", "aes256gcm", 1)
    (plain,) = packs(tmp_path / "plain")
    (pack,) = decode(manifest_in(tmp_path / "plain", 1), "it").contents.packs
    telling = digest(plain.read_bytes()[: pack.header]).encode()
    assert telling in manifest_in(tmp_path / "plain", 1), "the search finds nothing anyhow"
    assert telling not in everything(tmp_path / "run")
    assert decode(manifest_in(tmp_path / "run", 1), "it").contents.packs[0].digest == telling.decode()


def test_a20_a_reader_of_before_refuses_one_without_packs_too(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take it for one of nothing: only the number of the format tells it."""
    exclude = ("rng",)
    save = SavePolicy(codec="aes256gcm", exclude=exclude)
    with AsyncCheckpointer(tmp_path / "run", extra={"note": Nothing()}, save=save) as ckpt:
        for step in (1, 2):
            ckpt.save(step).wait()
    data = manifest_in(tmp_path / "run", 2)
    fields = unseal(data, "it", also=HIDDEN)
    assert (fields["packs"], fields["format"]) == ([], HIDDEN)
    assert asyncckpt.load(tmp_path / "run").state["extra"]["note"] == {"secret": 7}
    monkeypatch.setattr("asyncckpt.format.manifest.HIDDEN", FORMAT)
    with pytest.raises(UnsupportedFormat, match=f"format version {HIDDEN}; this asyncckpt reads up to {FORMAT}"):
        asyncckpt.load(tmp_path / "run")


def test_a20_what_is_plain_is_still_what_every_version_reads(tmp_path: Path) -> None:
    trained(tmp_path / "run", "zstd", 1)
    assert unseal(manifest_in(tmp_path / "run", 1), "it")["format"] == FORMAT


def test_a20_to_copy_it_takes_no_key(tmp_path: Path, key: str) -> None:
    root, target = tmp_path / "run", tmp_path / "copy"
    trained(root, "zstd+aes256gcm", 1)
    checkpoint = checkpoint_of(root, 1)
    keys.forget()

    async def act() -> None:
        source, there = LocalStorage(root), LocalStorage(target)
        await Copying(Catalog(source), there, Pace()).copy(checkpoint, ())
        await source.aclose()
        await there.aclose()

    asyncio.run(act())
    assert {path.name: path.read_bytes() for path in target.glob("data/*/*")} == {
        path.name: path.read_bytes() for path in root.glob("data/*/*")
    }


def test_a20_who_goes_on_in_the_clear_from_one_without_packs_is_told(tmp_path: Path, key: str) -> None:
    save = SavePolicy(codec="aes256gcm", exclude=("rng",))
    with AsyncCheckpointer(tmp_path / "run", extra={"note": Nothing()}, save=save) as ckpt:
        ckpt.save(1).wait()
    for executor in ("thread", "process"):
        seen = Recorder()
        plain = SavePolicy(exclude=("rng",))
        with AsyncCheckpointer(
            tmp_path / "run", extra={"note": Nothing()}, save=plain, listeners=[seen], executor=executor
        ) as ckpt:
            ckpt.resume()
        assert [event.feature for event in seen.of(Fallback)] == ["encryption"], executor


def test_a20_what_is_read_from_it_is_what_was_saved(tmp_path: Path, key: str) -> None:
    """Bound to all that stands beside it: nothing of that can be changed without the key."""
    root = tmp_path / "run"
    expected = trained(root, "aes256gcm", 1)
    found = asyncckpt.load(root, only_encrypted=True)
    assert all(torch.equal(found.state["model"][name], tensor) for name, tensor in expected.items())
