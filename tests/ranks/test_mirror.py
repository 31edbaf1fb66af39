"""A mirror of a training of several ranks: every rank's part is in it, and any of them may be read there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch.distributed as dist

from asyncckpt import SavePolicy
from asyncckpt.errors import TransientError
from asyncckpt.events import Damaged, Event, Restored, TierFailed
from asyncckpt.testing.ranks import run_ranks
from tests.ranks.executors import Launcher, gated
from tests.ranks.looking import error_of, is_leader, steps_of
from tests.ranks.training import Seen, Training

pytestmark = pytest.mark.ranks


class Told:
    """A listener that keeps what tiers are told of."""

    def __init__(self) -> None:
        self.restored: list[str] = []
        self.damaged: list[tuple[int | None, str]] = []
        self.failed = 0

    def on_event(self, event: Event) -> None:
        if isinstance(event, Restored):
            self.restored.append(event.tier)
        elif isinstance(event, Damaged):
            self.damaged.append((event.step, event.tier))
        elif isinstance(event, TierFailed):
            self.failed += 1


def _train(folder: Path, first: int, last: int) -> Seen:
    training = Training()
    root, mirror = folder / "root", folder / "mirror"
    with training.checkpointer(root, mirror=mirror, save=SavePolicy(every_steps=1), on_busy="wait") as checkpointer:
        checkpointer.resume()
        for step in range(first, last + 1):
            training.step()
            checkpointer.step(step)
    return training.seen


def _resume(root: Path, mirror: Path | None) -> tuple[int, Seen, Told]:
    told, training = Told(), Training(seed=5)
    with training.checkpointer(root, mirror=mirror, listeners=[told]) as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        training.step()
    return state.step, training.seen, told


def test_every_rank_goes_on_in_the_mirror_as_it_would_in_the_root(tmp_path: Path, launch: Launcher) -> None:
    launch(_train, 3, tmp_path, 1, 4)
    assert steps_of(tmp_path / "root") == [1, 2, 3, 4]
    assert steps_of(tmp_path / "mirror")[-1] == 4  # those before may be passed
    (folder,) = (tmp_path / "mirror").glob("data/*-step-4-*")
    packs = sorted(path.name for path in folder.glob("*.safetensors"))
    assert [name[:10] for name in packs] == ["rank-00000", "rank-00001", "rank-00002"]
    for path in folder.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "root" / "data" / folder.name / path.name).read_bytes()
    from_root = launch(_resume, 3, tmp_path / "root", None)
    from_mirror = launch(_resume, 3, tmp_path / "mirror", None)
    for (step, seen, _), (other, there, _) in zip(from_root, from_mirror, strict=True):
        assert step == other == 4
        assert seen.losses == there.losses
        assert seen.draws == there.draws
        assert seen.loader == there.loader


@pytest.mark.parametrize("rank", [0, 1])
def test_a_shard_that_is_damaged_in_the_root_is_read_in_the_mirror_and_no_rank_falls_back(
    tmp_path: Path, launch: Launcher, rank: int
) -> None:
    launch(_train, 2, tmp_path, 1, 3)
    undamaged = launch(_resume, 2, tmp_path / "root", None)
    (pack,) = (tmp_path / "root").glob(f"data/*-step-3-*/rank-0000{rank}-*.safetensors")
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    found = launch(_resume, 2, tmp_path / "root", tmp_path / "mirror")
    for at, ((step, seen, told), (_, sound, _)) in enumerate(zip(found, undamaged, strict=True)):
        assert step == 3
        assert seen.losses == sound.losses
        assert seen.draws == sound.draws
        assert seen.loader == sound.loader
        # Each rank reads its own part, and rank 0 what all share too.
        assert told.restored == (["mirror"] if at == rank else ["home"])
        assert told.damaged == ([(3, "home")] if at == rank else [])


def _dead(folder: Path) -> tuple[list[str], int]:
    told, training = Told(), Training()
    mirror = gated(folder / "mirror")
    if is_leader():
        for request in ("put", "list", "get", "head", "probe"):
            mirror.fail(request, "*", lambda: TransientError("the mirror is away"))
    with training.checkpointer(
        folder / "root", mirror=mirror, listeners=[told], save=SavePolicy(every_steps=1), on_busy="wait"
    ) as checkpointer:
        checkpointer.resume()
        handles = []
        for step in (1, 2, 3):
            training.step()
            handles.append(checkpointer.step(step))
        for handle in handles:
            assert handle is not None
            handle.wait(60)
        dist.barrier()
        mirror.heal()
    return [handle.status for handle in handles if handle is not None], told.failed


def test_a_mirror_that_is_away_fails_no_save_of_any_rank_and_gets_all_at_the_next_start(
    tmp_path: Path, launch: Launcher
) -> None:
    for rank, (statuses, failed) in enumerate(launch(_dead, 2, tmp_path)):
        assert statuses == ["durable"] * 3
        assert bool(failed) == (rank == 0)
    assert steps_of(tmp_path / "root") == [1, 2, 3]
    launch(_train, 2, tmp_path, 4, 4)
    assert steps_of(tmp_path / "mirror")[-1] == 4


def test_a_root_that_was_lost_is_not_begun_anew_beside_its_mirror_on_any_rank(tmp_path: Path) -> None:
    run_ranks(_train, 2, tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "root")
    for said in run_ranks(_refused, 2, tmp_path):
        assert "is empty, and its mirror" in said


def _refused(folder: Path) -> str:
    with Training().checkpointer(folder / "root", mirror=folder / "mirror") as checkpointer:
        return error_of(checkpointer.resume)
