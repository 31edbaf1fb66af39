"""Racing: two writers on one local folder, one of them stopped before each of its file system calls in turn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from asyncckpt.errors import AsyncCkptError
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.files import Files
from asyncckpt.testing.files import Call
from asyncckpt.testing.recording import RecordingFiles
from asyncckpt.testing.stepping import SteppingFiles
from tests.worker.crashing import RUNGS, Unsynced, plain, save
from tests.worker.drive import Session, drive
from tests.worker.watching import KEEP, Watch

Training: TypeAlias = Callable[[Path, Files, Sequence[int], list[Session]], Coroutine[Any, Any, None]]


class Choosing(SteppingFiles):
    """Counts, and stops before, only calls about what `about` is in."""

    about = ""

    def around(self, call: Call) -> Any:
        return super().around(call) if any(self.about in path for path in call.paths) else call.make()


class Through(Choosing):
    """Makes the calls on the files that record those of another writer too."""

    def __init__(self, recording: RecordingFiles, stop_before: int, about: str) -> None:
        super().__init__(stop_before)
        self.about = about
        self._recording = recording

    def around(self, call: Call) -> Any:
        return super().around(replace(call, make=partial(getattr(self._recording, call.name), *call.arguments)))


def stepping(rung: str, stop_before: int | None = None, about: str = "") -> SteppingFiles:
    made = type("Stepping", (Choosing, *RUNGS[rung], Unsynced), {"about": about})(stop_before)
    assert isinstance(made, SteppingFiles)
    return made


class Stopped:
    """Work in a thread of its own, run up to the stop of its `files`."""

    def __init__(self, files: SteppingFiles, work: Callable[[], object]) -> None:
        self._files = files
        self._thread = ThreadPoolExecutor(1)
        self._running = self._thread.submit(work)
        self._running.add_done_callback(lambda _: files.resume())
        files.wait_stopped()
        self.is_stopped = not self._running.done()
        self.before = files.calls[-1]

    def finish(self) -> None:
        """Let it go on to its end; raises what it raises."""
        self._files.resume()
        self._thread.shutdown()
        self._running.result()


class Race:
    """Two writers in `place`; each story begins with a copy of one run, empty where `base` is."""

    def __init__(self, place: Path, rung: str, base: Sequence[int] = (1, 2, 3)) -> None:
        self._rung = rung
        self._base = place / "base"
        self._root = place / "root"
        self.stories = 0
        self.calls: set[str] = set()
        """The names of the calls that somebody was stopped before."""
        self.violations: list[str] = []
        if base:
            drive(save(self._base, base, plain(rung)))

    def calls_of(self, steps: Sequence[int]) -> list[str]:
        """The file system calls of a writer that is alone, without the root."""
        files = stepping(self._rung)
        self._fresh()
        drive(train(self._root, files, steps, []))
        return [call.replace(str(self._root), "") for call in files.calls]

    def one_stopped(self, at: Iterable[int], steps: Sequence[int], others: Sequence[int]) -> Race:
        """The first writer stops, the second does all it wants, the first goes on."""
        for number in at:

            def story(watch: Watch, sessions: list[Session], number: int = number) -> str:
                first = self._start(number, "", train, steps, sessions)
                drive(watch.look_closely("stopped"))
                drive(train(self._root, plain(self._rung), others, sessions))
                drive(watch.look_closely("overtaken"))
                first.finish()
                return first.before

            self._tell(story)
        return self

    def both_stopped(
        self, about: str, other: str, steps: Sequence[int], others: Sequence[int], *, until_wrong: bool = False
    ) -> Race:
        """At every pair of calls, the first writer's about `about`, the second's about `other`.

        The first stops, the second stops, the first goes on and is killed after its saves, the second goes on.
        """
        at = (0, 0)
        while not (until_wrong and self.violations):
            stopped: list[bool] = []

            def story(
                watch: Watch, sessions: list[Session], at: tuple[int, int] = at, stopped: list[bool] = stopped
            ) -> str:
                first = self._start(at[0], about, train_unto_death, steps, sessions)
                second = self._start(at[1], other, train, others, sessions)
                stopped += [first.is_stopped, second.is_stopped]
                first.finish()
                drive(watch.look_closely("the first is done"))
                second.finish()
                return f"{first.before} | {second.before}"

            self._tell(story)
            if not stopped[0]:
                break
            at = (at[0], at[1] + 1) if stopped[1] else (at[0] + 1, 0)
        return self

    def _start(
        self, number: int, about: str, training: Training, steps: Sequence[int], sessions: list[Session]
    ) -> Stopped:
        files = stepping(self._rung, number, about)
        return Stopped(files, lambda: drive(training(self._root, files, steps, sessions)))

    def _tell(self, story: Callable[[Watch, list[Session]], str]) -> None:
        self._fresh()
        watch, sessions = Watch(LocalStorage(self._root, files=plain(self._rung)), always=False), list[Session]()
        told = story(watch, sessions)
        drive(watch.conclude(sessions))
        self.stories += 1
        self.calls |= {part.split()[0] for part in told.split(" | ") if part}
        self.violations += [f"{told}: {violation}" for violation in watch.violations]

    def _fresh(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        if self._base.exists():
            shutil.copytree(self._base, self._root, symlinks=True)


async def train(root: Path, files: Files, steps: Sequence[int], sessions: list[Session]) -> None:
    """Resume, save and close; what becomes of each is on the session."""
    await (await _saved(root, files, steps, sessions)).close()


async def train_unto_death(root: Path, files: Files, steps: Sequence[int], sessions: list[Session]) -> None:
    """The same, but killed instead of closed."""
    await (await _saved(root, files, steps, sessions)).abandon()


async def _saved(root: Path, files: Files, steps: Sequence[int], sessions: list[Session]) -> Session:
    session = Session(LocalStorage(root, files=files), keep=KEEP)
    sessions.append(session)
    with suppress(AsyncCkptError):
        await session.resume()
    for step in steps:
        await session.save(step)
    return session
