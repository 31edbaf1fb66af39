"""Several ranks save in a bucket of a real S3 server: their parts and reports meet there, and there alone."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.distributed import coordinator
from asyncckpt.errors import RankMissing
from asyncckpt.fetching.reading import verify
from asyncckpt.storage import from_url
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.testing.slow import GatedStorage
from tests.ranks.executors import Launcher
from tests.ranks.looking import OwnTime, failure_of
from tests.ranks.training import Seen, Training

if TYPE_CHECKING:
    from asyncckpt.testing.s3server import S3Server

pytestmark = [pytest.mark.ranks, pytest.mark.skipif(sys.platform != "linux", reason="the server is one for Linux")]

Place = tuple[str, dict[str, Any]]


@pytest.fixture
def place(s3: S3Server) -> Place:
    """A root that nobody else has, and what a rank has to know to get there."""
    return f"s3://tests/{secrets.token_hex(8)}/run", s3.options()


def _look(place: Place) -> tuple[list[int], list[str], list[str]]:
    """The steps that are listed, verified to the last byte; what lies in their folders, and the folders of no step."""

    async def look() -> tuple[list[int], list[str], list[str]]:
        store = from_url(*place)
        catalog = Catalog(store)
        listed = (await catalog.listing()).checkpoints
        for checkpoint in listed:
            await verify(catalog, checkpoint)
        keys = [found.key async for found in store.list("data/")]
        await store.aclose()
        folders = {checkpoint.folder for checkpoint in listed}
        inside = sorted({key.rsplit("/", 1)[1] for key in keys if key.rsplit("/", 1)[0] in folders})
        outside = sorted({key.rsplit("/", 1)[0] for key in keys} - folders)
        return [checkpoint.step for checkpoint in listed], inside, outside

    return asyncio.run(look())


def _uploads(s3: S3Server, place: Place) -> list[str]:
    bucket, _, prefix = place[0].removeprefix("s3://").partition("/")
    with closing(s3.client()) as client:
        found = client.list_multipart_uploads(Bucket=bucket, Prefix=f"{prefix}/").get("Uploads", [])
    return [upload["Key"] for upload in found]


def _train(place: Place | None, steps: int) -> Seen:
    """Go on from what is there, if there is a place, up to `steps`, and save each step."""
    training = Training()
    checkpointer = None if place is None else training.checkpointer(place[0], storage_options=place[1])
    state = None if checkpointer is None else checkpointer.resume()
    for step in range(1 if state is None else state.step + 1, steps + 1):
        training.step()
        if checkpointer is not None:
            checkpointer.save(step).wait(60)
    if checkpointer is not None:
        checkpointer.close()
    return training.seen


def _one_dies(place: Place, victim: int, at: str) -> tuple[list[int], str]:
    """A durable save, then one in which `victim` is killed at its put of `at`; who is missing, as the other says."""
    coordinator.FAREWELL = 0.5
    training, storage, own = Training(), GatedStorage(from_url(*place)), OwnTime()
    store = dist.distributed_c10d._get_default_store()
    checkpointer = training.checkpointer(storage)
    training.step()
    checkpointer.save(1).wait(60)
    training.step()
    gate = storage.hold("put", at)
    handle = checkpointer.save(2)
    checkpointer.before_mutation()
    if dist.get_rank() == victim:
        gate.wait_reached()
        store.set("dies", "")
        os.kill(os.getpid(), signal.SIGKILL)
    gate.open()
    store.wait(["dies"])
    own.fly()
    error = failure_of(handle)
    missing = error.__cause__.ranks if isinstance(error.__cause__, RankMissing) else ()
    checkpointer.close()
    return list(missing), str(error)


def test_ranks_go_on_from_a_bucket_as_if_nothing_had_been(s3: S3Server, place: Place, launch: Launcher) -> None:
    launch(_train, 2, place, 2)
    steps, files, others = _look(place)
    assert (steps, others) == ([1, 2], [])
    parts = [f"rank-0000{rank}-of-00002{ending}" for rank in (0, 1) for ending in (".json", ".p0.safetensors")]
    assert files == sorted([*parts, "manifest.json"])
    for seen, twin in zip(launch(_train, 2, place, 3), run_ranks(_train, 2, None, 3), strict=True):
        assert seen.losses == twin.losses[-1:]
        assert seen.draws == twin.draws[-3:]
        assert (seen.loader, str(seen.tally)) == (twin.loader, str(twin.tally))
        assert all(torch.equal(value, twin.model[name]) for name, value in seen.model.items())
    assert _look(place)[0] == [1, 2, 3]
    assert _uploads(s3, place) == []


@pytest.mark.parametrize(("victim", "at"), [(1, "*/rank-00001-of-00002.json"), (0, "*/manifest.json")])
def test_a_rank_killed_in_mid_save_leaves_what_was_there_and_the_next_start_removes_the_rest(
    s3: S3Server, place: Place, victim: int, at: str
) -> None:
    (missing, said) = run_ranks(_one_dies, 2, place, victim, at, killed=[victim], store="launcher")[1 - victim]
    assert missing == [victim], said
    steps, _, others = _look(place)
    assert steps == [1]
    assert len(others) == 1 or victim == 1  # of that one the other could say that it failed, and so removed it
    assert [seen.loader["taken"] for seen in run_ranks(_train, 2, place, 2)] == [2, 2]
    steps, _, others = _look(place)
    assert (steps, others) == ([1, 2], [])
    assert _uploads(s3, place) == []
