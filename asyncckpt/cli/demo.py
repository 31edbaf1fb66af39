"""``asyncckpt demo``: train, save continuously, die in the middle of a save, resume, and compare with a twin.

The second part (``demo_bucket``) does it again in a bucket, with a notice in place of a kill.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from asyncckpt.cli.demo_bucket import BucketDemo, missing
from asyncckpt.cli.demo_metrics import headlines, scrape
from asyncckpt.cli.demo_process import TrainerProcess
from asyncckpt.cli.demo_report import Kill, Story, rows
from asyncckpt.cli.demo_screen import Screen, screen
from asyncckpt.format.names import DATA, directory_of
from asyncckpt.testing.servers import HeldPorts

KILLS = 3  # a save may commit between the look and the signal: then the next process is killed too
TIME_LIMIT = 900.0  # seconds, for a machine far slower than the two cores this is made for
UNHURT = "the run ended before a save could be interrupted: give it more --steps"


@click.command()
@click.option("--root", type=click.Path(path_type=Path), help="Where to keep the checkpoints [default: nowhere].")
@click.option("--steps", type=click.IntRange(min=40), help="Steps to train [default: 90; with --quick 120].")
@click.option("--quick", is_flag=True, help="A tiny model: seconds instead of a minute.")
def demo(root: Path | None, steps: int | None, quick: bool) -> None:
    """Kill a training run in the middle of a save, and show that nothing is lost.

    A small GPT learns to write Python while its state is saved every few steps. The process is killed with
    SIGKILL during a save and resumed in a new one; a twin that was never interrupted runs beside it. Then the
    same training saves to a bucket of a real S3 server on this machine, is told to leave with SIGTERM, and goes on
    in a new process, in an empty folder, from the URL alone. Exits with 1 unless losses, parameters, optimizer and
    random generators of all are equal to the last bit.
    """
    with contextlib.ExitStack() as stack:
        if root is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncckpt-demo-")))
        else:
            home = _empty(root)
        plan = Plan(home, "quick" if quick else "full", steps or (120 if quick else 90), 3 if quick else 4)
        show = screen(plan.steps)
        with show:
            story = Demo(plan, show).run()
        show.table("asyncckpt demo", rows(story))
        if not story.succeeded:
            raise click.ClickException("the resumed run is not what its twin is: see the table above")
        _show_bucket(plan, story)
    if root is not None:
        click.echo(f"\nLook around: asyncckpt ls {plan.store}")


def _show_bucket(plan: Plan, story: Story) -> None:
    """The second part, or why it is left out."""
    if reason := missing():
        click.echo(f"\nThe second part, a run that saves to an S3 server, is left out: {reason}")
        return
    show = screen(plan.steps)
    with show:
        arguments = [f"--steps={plan.steps}", f"--size={plan.size}"]
        found = BucketDemo(plan.bucket(), show, plan.steps, 15, arguments, story.twin).run()
    show.table("asyncckpt demo, part two: a bucket", found)


def _empty(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise click.BadParameter(f"{root} is not empty: the demo starts from nothing", param_hint="--root")
    return root


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained, and where."""

    home: Path
    size: str
    steps: int
    every: int

    @property
    def store(self) -> Path:
        """The root of the checkpoints."""
        return self.home / "run"

    def bucket(self) -> Path:
        """A folder for the second part."""
        folder = self.home / "bucket"
        folder.mkdir()
        return folder

    @property
    def kill_after(self) -> int:
        """The step from which on the next save is fatal."""
        return self.steps * 6 // 10

    def twin(self) -> TrainerProcess:
        """Start the run that nothing interrupts."""
        return TrainerProcess(self.home / "twin.jsonl", [f"--steps={self.steps}", f"--size={self.size}"])

    def trainer(self, number: int, port: int) -> TrainerProcess:
        """Start, or start again, the run that saves."""
        arguments = [
            f"--root={self.store}",
            f"--steps={self.steps}",
            f"--size={self.size}",
            f"--every={self.every}",
            f"--metrics-port={port}",
        ]
        return TrainerProcess(self.home / f"trainer-{number}.jsonl", arguments)


@dataclass(frozen=True, slots=True)
class Save:
    """One save as its files on a local disk tell it."""

    step: int
    manifest: Path

    @property
    def complete(self) -> bool:
        """Whether its manifest is there; the commit comes after it."""
        return self.manifest.exists()


def newest_save(store: Path) -> Save | None:
    """The save that began last."""
    # Older folders do not count: one that is being pruned looks like one that is not finished yet.
    data = store / DATA
    folders = os.listdir(data) if data.is_dir() else []
    found = [directory for name in folders if (directory := directory_of(f"{DATA}{name}/"))]
    newest = max(found, default=None, key=lambda directory: (directory.inc, directory.seq))
    return Save(newest.step, store / newest.manifest) if newest else None


class Demo:
    """One demo, from the first process to the last."""

    def __init__(self, plan: Plan, show: Screen) -> None:
        self._plan, self._show = plan, show
        self._trainers: list[TrainerProcess] = []
        self._kills: list[Kill] = []
        self._started = time.monotonic()

    def run(self) -> Story:
        """Train, kill, resume, and gather what all processes said.

        Raises `click.ClickException` if a process fails, or ends before it could be killed.
        """
        plan = self._plan
        self._show.say(f"Training {plan.steps} steps, a save every {plan.every}, beside a twin without saves.")
        with plan.twin() as self._twin:
            while not any(kill.inside for kill in self._kills) and len(self._kills) < KILLS:
                self._train_and_kill()
            self._resume_to_the_end()
        trainers = [trainer.lines for trainer in self._trainers]
        seconds = time.monotonic() - self._started
        return Story(plan.steps, plan.every, self._twin.lines, trainers, self._kills, seconds)

    def _train_and_kill(self) -> None:
        fatal = max([self._plan.kill_after, *(kill.saving for kill in self._kills)])
        with HeldPorts(1) as held, self._start(*held.numbers) as trainer:
            while trainer.step < fatal:
                if not self._alive():
                    raise click.ClickException(UNHURT)
                time.sleep(0.01)
            if not self._kills:
                self._show_metrics(*held.numbers)
            self._kills.append(self._kill_in_a_save(trainer, fatal))

    def _kill_in_a_save(self, trainer: TrainerProcess, after: int) -> Kill:
        while self._alive():
            save = newest_save(self._plan.store)
            if save and save.step > after and not save.complete:
                trainer.kill()
                inside = not save.complete
                trainer.wait()
                self._show.say(f"SIGKILL after step {trainer.step}, while step {save.step} is being saved.")
                return Kill(trainer.step, save.step, inside)
            time.sleep(0.001)
        raise click.ClickException(UNHURT)

    def _resume_to_the_end(self) -> None:
        with HeldPorts(1) as held, self._start(*held.numbers):
            while self._alive() or self._twin.running():
                time.sleep(0.05)

    def _start(self, port: int) -> TrainerProcess:
        self._trainers.append(self._plan.trainer(len(self._trainers) + 1, port))
        return self._trainers[-1]

    def _alive(self) -> bool:
        """Whether the trainer still runs; shows how far both processes are."""
        if time.monotonic() - self._started > TIME_LIMIT:
            raise click.ClickException(f"not finished after {TIME_LIMIT:.0f} s")
        trainer = self._trainers[-1]
        alive, _ = trainer.running(), self._twin.running()
        self._show.progress(trainer=trainer.step, twin=self._twin.step)
        return alive

    def _show_metrics(self, port: int) -> None:
        self._show.say("What Prometheus would scrape now:")
        for line in headlines(scrape(port)):
            self._show.say(f"  {line}")
