"""``verify --sample``: damage in the sample is found, a seed reads the same again, and what is said of it holds."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.cli.sampling import Sample
from asyncckpt.cli.verdict import judge
from asyncckpt.fetching.reading import spans
from asyncckpt.format.contents import Contents, Extent
from asyncckpt.format.record import Checkpoint
from asyncckpt.storage import LocalStorage, from_url

from .conftest import Document, Run, Saved, flip, train

if TYPE_CHECKING:
    from asyncckpt.testing.s3server import S3Server

HALF = ("--sample", "50%")


def latest(root: str) -> tuple[Checkpoint, Contents]:
    """The newest checkpoint of a run, and what it holds."""

    async def read() -> tuple[Checkpoint, Contents]:
        storage = from_url(root)
        try:
            catalog = Catalog(storage)
            checkpoint = (await catalog.listing()).checkpoints[-1]
            return checkpoint, (await catalog.manifest(checkpoint)).contents
        finally:
            await storage.aclose()

    return asyncio.run(read())


def extents(contents: Contents) -> list[Extent]:
    return [extent for entry in contents.tensors.values() for box in entry.boxes for extent in box.extents]


def seeds(wanted: Callable[[frozenset[Extent]], bool], checkpoint: Checkpoint, contents: Contents) -> int:
    """The first seed by which half of the extents are such ones."""
    return next(n for n in itertools.count() if wanted(Sample(0.5, n).of(checkpoint)(contents)))


def test_damage_is_found_where_it_is_in_the_sample_and_the_seed_says_where(run: Run, saved: Saved) -> None:
    checkpoint, contents = latest(str(saved))
    hit = extents(contents)[-1]
    flip(saved.pack(3), hit.offset)
    inside = seeds(lambda chosen: hit in chosen, checkpoint, contents)
    outside = seeds(lambda chosen: hit not in chosen, checkpoint, contents)
    for _ in range(2):
        done = run("verify", f"{saved}@30", *HALF, "--seed", inside)
        assert (done.exit_code, done.stderr) == (1, "")
        assert f"does not match its digest at byte {hit.offset}" in done.stdout
        assert run("verify", f"{saved}@30", *HALF, "--seed", outside).exit_code == 0
    assert run("verify", f"{saved}@30", "--sample", "100").exit_code == 1
    # Which part of one checkpoint is read does not depend on what else is listed.
    assert run("verify", saved, *HALF, "--seed", inside).exit_code == 1
    assert run("verify", saved, *HALF, "--seed", outside).exit_code == 0


def test_what_quick_finds_a_sample_finds(run: Run, saved: Saved) -> None:
    flip(saved.pack(2), 20)
    done = run("verify", saved, "--sample", "0.1%")
    assert done.exit_code == 1
    assert "00000002  step 20  damaged: " in done.stdout


def test_damage_in_a_bucket_is_found_the_same_way(run: Run, bucket: str, s3: S3Server) -> None:
    train(bucket)
    checkpoint, contents = latest(bucket)
    hit = extents(contents)[-1]
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    key = f"{prefix}/{contents.packs[hit.pack].key}"
    with closing(s3.client()) as client:
        data = bytearray(client.get_object(Bucket=name, Key=key)["Body"].read())
        data[hit.offset] ^= 1
        client.put_object(Bucket=name, Key=key, Body=bytes(data))
    inside = seeds(lambda chosen: hit in chosen, checkpoint, contents)
    outside = seeds(lambda chosen: hit not in chosen, checkpoint, contents)
    assert run("verify", bucket, *HALF, "--seed", inside).exit_code == 1
    assert run("verify", bucket, *HALF, "--seed", outside).exit_code == 0


def test_it_says_the_seed_and_what_a_clean_result_is_worth(run: Run, document: Document, saved: Saved) -> None:
    done = run("verify", saved, "--sample", "5%", "--seed", 7)
    assert done.exit_code == 0
    *verdicts, last = done.stdout.splitlines()
    assert [line.split()[-1] for line in verdicts] == ["ok"] * 3
    assert last == (
        "sampled 5 % (seed 7): damage in one place of a checkpoint is found with a probability of at least 5 %, "
        "in 10 with 40.1 %, in 59 with 95.2 %; a place is 64.0 MiB in a row, or less"
    )
    found = document("verify", saved, *HALF)
    assert (found["ok"], found["full"], found["sample"]["share"], found["sample"]["place"]) == (
        True,
        False,
        0.5,
        64 << 20,
    )
    assert found["sample"]["finds"][0] == {"places": 1, "probability": 0.5}
    assert found["sample"]["seed"] != document("verify", saved, *HALF)["sample"]["seed"], "another part each time"


def test_of_every_extent_the_share_is_read_that_is_said_and_damage_is_found_as_often(saved: Saved) -> None:
    checkpoint, contents = latest(str(saved))
    known = extents(contents)
    assert len(known) >= 4
    drawn = [Sample(0.3, seed).of(checkpoint)(contents) for seed in range(2000)]
    count = {len(chosen) for chosen in drawn}
    assert len(count) == 1
    share = count.pop() / len(known)
    assert 0.3 <= share < 0.3 + 1 / len(known)
    for extent in known:
        assert abs(sum(extent in chosen for chosen in drawn) / len(drawn) - share) < 0.04
    for places in (1, 2, 3):
        found = sum(not chosen.isdisjoint(known[:places]) for chosen in drawn) / len(drawn)
        assert found > Sample(0.3, 0).finds(places) - 0.04


def test_only_what_was_chosen_is_read(saved: Saved) -> None:
    checkpoint, contents = latest(str(saved))
    (one,) = Sample(1e-6, 3).of(checkpoint)(contents)
    assert [(span.start, span.length) for span in spans(contents, only={one})] == [(one.offset, one.length)]
    checked: list[int] = []

    async def judged() -> str:
        catalog = Catalog(LocalStorage(saved.root))
        found = await judge(catalog, checkpoint, full=False, choose=lambda contents: {one}, progress=checked.append)
        return found.state

    assert asyncio.run(judged()) == "ok"
    assert checked == [one.length]


def test_a_sample_takes_no_note_back(run: Run, saved: Saved) -> None:
    good = saved.pack(2).read_bytes()
    flip(saved.pack(2))
    assert run("verify", saved, "--sample", "100%", "--note").exit_code == 1
    saved.pack(2).write_bytes(good)
    noted = list((saved.root / "user").iterdir())
    assert run("verify", saved, "--sample", "99%", "--note").exit_code == 0
    assert list((saved.root / "user").iterdir()) == noted != []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sample", "0"], "give a part of the bytes, as 5%"),
        (["--sample", "101%"], "give a part of the bytes, as 5%"),
        (["--sample", "half"], "give a part of the bytes, as 5%"),
        (["--seed", "1"], "--seed is for --sample"),
        (["--quick", "--sample", "5%"], "leave out --quick"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, saved: Saved, arguments: list[str], said: str) -> None:
    done = run("verify", saved, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
