"""Real processes killed with SIGKILL while they save, and real readers beside a process that saves."""

from __future__ import annotations

import asyncio
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing, Which
from asyncckpt.fetching.reading import verify
from asyncckpt.format import names
from asyncckpt.storage import from_url
from tests.kills.saving_loop import Counter, score

pytestmark = pytest.mark.kills

KILLS = 200


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.kills.saving_loop", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def _kill(zygote: subprocess.Popen[str], milliseconds: int) -> list[int]:
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    print(milliseconds, file=zygote.stdin, flush=True)
    steps: list[int] = json.loads(zygote.stdout.readline())
    return steps


async def _listed(root: Path) -> list[int]:
    """The steps of every listed checkpoint, oldest first, each of them verified to the last byte; and no others."""
    storage = from_url(root)
    catalog = Catalog(storage)
    listing = await catalog.listing()
    assert not listing.lost
    for checkpoint in listing.checkpoints:
        await verify(catalog, checkpoint)
    await storage.aclose()
    steps = [checkpoint.step for checkpoint in listing.checkpoints]
    old = [step for step in steps[:-3] if step % 40]
    best = sorted(steps, key=lambda step: (score(step), step))[:2]
    assert set(old) <= set(best), f"retention kept {steps}"
    return steps


async def _listing(root: Path) -> Listing:
    storage = from_url(root)
    try:
        return await Catalog(storage).listing()
    finally:
        await storage.aclose()


def _leftovers(root: Path) -> list[str]:
    """Everything below the root that no live record names; the head's own records aside."""
    listing = asyncio.run(_listing(root))
    assert listing.head is not None
    live = {names.record_key(slot) for slot in (*listing.head.live, listing.head.slot)}
    for checkpoint in listing.checkpoints:
        live |= {checkpoint.manifest.key, *(pack.key for pack in checkpoint.packs)}
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    empty = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_dir() and not any(path.iterdir())}
    links = {path for path in files if path.startswith("checkpoints/")}
    return sorted((files - live - links - {names.RUN, names.LATEST, names.BEST}) | empty)


def test_d8_P11_nothing_durable_is_lost_by_two_hundred_kills(tmp_path: Path, zygote: subprocess.Popen[str]) -> None:
    root = tmp_path / "run"
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    former, best = 0, math.inf
    for kill in range(KILLS):
        durable = _kill(zygote, moments.randrange(60))
        listed = asyncio.run(_listed(root))
        assert durable, "the trainer never saved"
        assert listed[-1] >= durable[-1] > former, f"kill {kill}: {listed} after {durable}"
        best = min(best, *map(score, durable))
        assert min(map(score, listed)) <= best, f"kill {kill}: the best was lost"
        for step in (listed[-1], moments.choice(listed)):
            assert _loaded(root, step) == step
        former = listed[-1]
    with AsyncCheckpointer(root, extra={"counter": Counter()}) as checkpointer:
        assert checkpointer.resume().step == former
    assert _leftovers(root) == []
    listing = asyncio.run(_listing(root))
    assert max(len(checkpoint.packs) for checkpoint in listing.checkpoints) > 1, "nothing was ever shared"


def _loaded(root: Path, which: Which) -> int:
    """The step of a checkpoint whose every element is of that step."""
    counter = Counter()
    counter.load_state_dict(asyncckpt.load(root, which).state["extra"]["counter"])
    assert counter.is_whole()
    return counter.step


def test_readers_disturb_nothing_and_are_never_wrong(tmp_path: Path) -> None:
    root = tmp_path / "run"
    # What is read first is gone after three saves: eight, and as many that were left, overtake no reader ten times.
    code = (
        "import sys; from pathlib import Path; from tests.kills.saving_loop import Turns, train;"
        "train(Path(sys.argv[1]), 1, Turns(8))"
    )
    command = [sys.executable, "-c", code, str(root)]
    saver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert saver.stdin is not None
    assert saver.stdout is not None
    told = b""
    for _ in range(100):
        saver.stdin.write(b"\n")
        told += saver.stdout.read(1 << 16)  # a step or more is durable that was not before
        counter = Counter()
        with AsyncCheckpointer(root, extra={"counter": counter}) as reader:
            assert reader.checkpoints()
            restored = reader.restore()
        assert counter.step == restored.step
        assert counter.is_whole()
        assert _loaded(root, "latest") >= restored.step
    assert saver.poll() is None, "the saver failed"
    saver.kill()
    steps = [int(line) for line in (told + saver.communicate()[0]).split()]
    assert steps == list(range(1, len(steps) + 1)), "a save failed while others read"
    assert asyncio.run(_listed(root))[-1] >= steps[-1]
