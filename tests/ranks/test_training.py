"""Replicated training on several ranks: what is written, by whom, and that a resumed training is the same one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

import asyncckpt
from asyncckpt import CheckpointInfo, SavePolicy
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.fetching.reading import verify
from asyncckpt.storage import from_url
from asyncckpt.testing.ranks import run_ranks
from tests.ranks.executors import Launcher
from tests.ranks.training import Seen, Training

pytestmark = pytest.mark.ranks


def _train(root: Path, steps: int) -> tuple[Seen, list[CheckpointInfo]]:
    training = Training()
    with training.checkpointer(root, save=SavePolicy(every_steps=2), on_busy="wait") as checkpointer:
        state = checkpointer.resume()
        first = state.step + 1 if state else 1
        handles = []
        for step in range(first, steps + 1):
            training.step()
            handles.append(checkpointer.step(step))
        checkpointer.wait()
        infos = [handle.wait() for handle in handles if handle is not None]
        assert [handle.id for handle in handles if handle is not None] == [info.id for info in infos]
        assert checkpointer.checkpoints()[-len(infos) :] == infos
        assert checkpointer.latest() == infos[-1]
    return training.seen, infos


@pytest.mark.parametrize("world", [2, 3])
def test_a_resumed_training_is_the_same_on_every_rank_bit_for_bit(tmp_path: Path, launch: Launcher, world: int) -> None:
    straight = launch(_train, world, tmp_path / "straight", 6)
    before = launch(_train, world, tmp_path / "resumed", 4)
    after = launch(_train, world, tmp_path / "resumed", 6)
    for rank in range(world):
        (whole, _), (first, _), (second, _) = straight[rank], before[rank], after[rank]
        second.losses = first.losses + second.losses
        second.draws = first.draws + second.draws
        _assert_same(second, whole)
        assert whole.loader == {"rank": rank, "taken": 6}
        assert whole.tally["owner"] == f"rank {rank}"
    assert len({str(seen.losses) for seen, _ in straight}) == world


def _assert_same(one: Seen, other: Seen) -> None:
    assert one.losses == other.losses
    assert one.draws == other.draws
    assert _plain(one) == _plain(other)


def _plain(seen: Seen) -> object:
    """Without memory layout, which a copy may change: names, dtypes and bytes."""
    return torch.utils._pytree.tree_map(_bytes, [seen.model, seen.optimizer, seen.loader, seen.tally])


def _bytes(leaf: object) -> object:
    if isinstance(leaf, torch.Tensor):
        return [str(leaf.dtype), list(leaf.shape), leaf.numpy().tobytes()]
    return leaf


def test_rank_0_writes_what_all_share_and_every_rank_its_own(tmp_path: Path) -> None:
    results = run_ranks(_train, 3, tmp_path, 2)
    (info,) = results[0][1]
    assert [infos for _, infos in results] == [[info]] * 3
    (folder,) = (tmp_path / "data").iterdir()
    packs = [f"rank-0000{rank}-of-00003.p0.safetensors" for rank in range(3)]
    reports = [f"rank-0000{rank}-of-00003.json" for rank in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*packs, *reports, "manifest.json"])
    assert asyncio.run(_paths_by_rank(tmp_path)) == [{"model", "optimizer", "rank-0"}, {"rank-1"}, {"rank-2"}]
    loaded = asyncckpt.load(tmp_path)
    assert loaded.info == info
    assert torch.equal(loaded.state["model"]["0.weight"], results[2][0].model["0.weight"])
    assert loaded.state["dataloader"] == {"rank": 0, "taken": 2}


async def _paths_by_rank(root: Path) -> list[set[str]]:
    """The first names of the tensors that each rank wrote, once every byte of the checkpoint is verified."""
    storage = from_url(root)
    catalog = Catalog(storage)
    (checkpoint,) = (await catalog.listing()).checkpoints
    await verify(catalog, checkpoint)
    contents = (await catalog.manifest(checkpoint)).contents
    found: list[set[str]] = [set() for _ in range(checkpoint.world)]
    for path, entry in contents.tensors.items():
        for box in entry.boxes:
            for extent in box.extents:
                found[contents.packs[extent.pack].rank].add(path[0])
    await storage.aclose()
    return found
