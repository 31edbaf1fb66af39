"""Crashing: a training recorded call by call on a local disk, and every disk that a power loss could have left."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from asyncckpt.format.codec import PLAIN, Codec
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.files import Files
from asyncckpt.testing import files as poorer
from asyncckpt.testing.crash import CrashState, RecordingFiles, materialise
from tests.worker.drive import Session, checked, leftovers


class Unsynced(Files):
    """Syncs nothing: what a sync is worth is the recording's to say, and real ones take their time."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: str) -> None:
        pass


RUNGS: dict[str, tuple[type[Files], ...]] = {
    "unnamed": (),
    "linked": (poorer.WithoutTmpfile,),
    "renamed": (poorer.WithoutLinks,),
    "claimed": (poorer.WithoutLinks, poorer.WithoutNoReplace),
}
"""Each way of creating exclusively, by what the file system lacks that would offer a better one."""


def recorder(rung: str) -> Callable[[Path], RecordingFiles]:
    made = type("Recorder", (*RUNGS[rung], RecordingFiles, Unsynced), {})
    assert issubclass(made, RecordingFiles)
    return made


def plain(rung: str) -> Files:
    made = type("Plain", (*RUNGS[rung], Unsynced), {})()
    assert isinstance(made, Files)
    return made


def litter(root: Path) -> None:
    """What crashes of incarnation 1 may leave: an attempt without a record, unfinished puts, folders that are empty."""
    for name in (
        "data/00000009-step-9-i1-0123abcd/rank-00000-of-00001.p0.safetensors",
        "data/00000009-step-9-i1-0123abcd/.0123456789abcdef.tmp-manifest.json",
        "commits/.0123456789abcdef.tmp-0000000005.json",
        ".0123456789abcdef.tmp-latest",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "data" / "00000008-step-8-i1-0123abcd").mkdir()


async def save(root: Path, steps: Sequence[int], files: Files, codec: Codec = PLAIN) -> None:
    async with Session(LocalStorage(root, files=files), keep=2, codec=codec) as session:
        for step in steps:
            await session.saved(step)


class Crashes:
    """Every crash of one training on the disk in `place`, which begins with the steps `base`, and litter."""

    def __init__(
        self, place: Path, rung: str = "unnamed", base: Sequence[int] = (1, 2, 3), codec: Codec = PLAIN
    ) -> None:
        self._place = place
        self._codec = codec
        self._rung = rung
        self._disk = place / "disk"
        self._base = base
        self.sets = [list(base[-2:])]
        """The steps that were listed after each save, `base` first."""
        self.states = 0
        self.violations: list[str] = []

    async def record(self, steps: Sequence[int]) -> RecordingFiles:
        """Resume, save `steps`, close."""
        self._disk.mkdir(parents=True)
        if self._base:
            await save(self._disk / "run", self._base, plain(self._rung), self._codec)
            litter(self._disk / "run")
        files = recorder(self._rung)(self._disk)
        async with Session(LocalStorage(self._disk / "run", files=files), keep=2, codec=self._codec) as session:
            await session.go_on(await session.resume())
            for step in steps:
                await session.saved(step)
                self.sets.append([*self.sets[-1], step][-2:])
                files.mark(f"durable {step}")
            await session.tidied()
        files.mark("closed")
        return files

    async def explore(self, states: Iterable[CrashState], *, first: bool = False) -> Crashes:
        """Look at what each crash left, and start again on it; with `first`, only up to the first violation."""
        for state in states:
            self.states += 1
            after = self._place / "after"
            materialise(state, after)
            try:
                await self._recover(state, after / "run")
            except Exception as error:
                self.violations.append(f"{state.story}: {error!r}")
            shutil.rmtree(after)
            if first and self.violations:
                break
        return self

    async def _recover(self, state: CrashState, root: Path) -> None:
        storage = LocalStorage(root, files=plain(self._rung))
        found = [c.step for c in (await checked(storage)).checkpoints]
        reached = sum(mark.startswith("durable") for mark in state.reached)
        allowed = self.sets[reached : reached + 2]
        assert found in allowed, f"{found} is listed, not one of {allowed}"
        async with Session(storage, keep=2, codec=self._codec) as session:
            await session.go_on(await session.resume())
            await session.saved(99)
        again = LocalStorage(root, files=plain(self._rung))
        assert [c.step for c in (await checked(again)).checkpoints] == [*found, 99][-2:]
        assert await leftovers(again) == []
        assert sorted(path.name for path in (root / "checkpoints").iterdir()) == ["latest"]
        assert (root / "checkpoints" / "latest" / "manifest.json").is_file()
        await again.aclose()
