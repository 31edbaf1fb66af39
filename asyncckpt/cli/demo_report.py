"""What the demo found: the comparison with the twin, and the rows of its table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asyncckpt.cli.demo_process import Line


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL: the last step trained, the step being saved, and whether that save was still uncommitted."""

    step: int
    saving: int
    inside: bool


@dataclass(frozen=True, slots=True)
class Story:
    """One demo: what the twin printed, what each trainer process printed, and how the killed ones ended."""

    steps: int
    every: int
    twin: Sequence[Line]
    trainers: Sequence[Sequence[Line]]
    kills: Sequence[Kill]
    seconds: float

    def of(self, event: str) -> list[Line]:
        """The lines of one kind of event, of every trainer process in turn."""
        return [line for lines in self.trainers for line in lines if line["event"] == event]

    @property
    def done(self) -> Line:
        """The last line of the trainer that reached the end; empty if none did."""
        return (self.of("done") or [{}])[-1]

    @property
    def succeeded(self) -> bool:
        """The resumed run equals the twin, no save failed, and every listed checkpoint is sound."""
        sound = self.done.get("listed") == self.done.get("sound")
        return sound and not self.of("failed") and not differences(self)


def differences(story: Story) -> list[str]:
    """What is not bit for bit the same in the resumed run and in its twin; empty if nothing is.

    Steps that were trained twice, before the kill and again after the resume, count both times.
    """
    expected = {line["step"]: line["loss"] for line in story.twin if line["event"] == "step"}
    trained = [(line["step"], line["loss"]) for line in story.of("step")]
    wrong = {step for step, loss in trained if expected.get(step) != loss}
    wrong |= set(range(1, story.steps + 1)) - (expected.keys() & dict(trained).keys())
    losses = [f"the losses of {len(wrong)} steps, first of step {min(wrong)}"] if wrong else []
    return losses + _unequal_digests(story)


def _unequal_digests(story: Story) -> list[str]:
    ours = story.done.get("digests", {})
    theirs: dict[str, object] = next((line["digests"] for line in story.twin if line["event"] == "done"), {})
    if not ours or not theirs:
        return ["the state at the end, which was not reached"]
    return [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def rows(story: Story) -> Iterator[tuple[str, str]]:
    """The table: what was measured, and the value."""
    durable = story.of("durable")
    yield "state size", f"{max((line['bytes'] for line in durable), default=0) / 1e6:,.1f} MB"
    yield "steps", f"{story.steps}, a save every {story.every}"
    yield "saves", ", ".join(f"{len(story.of(kind))} {kind}" for kind in ("durable", "superseded", "failed"))
    yield "stall of a save call", _stalls(story, "call")
    yield "stall at the optimizer", _stalls(story, "guard")
    for kill, resumed in zip(story.kills, _resumes(story), strict=False):
        yield "killed at step", f"{kill.step}, {_moment(kill)} the save of step {kill.saving}"
        yield "resumed from step", f"{resumed}"
        yield "lost steps", f"{kill.step - resumed}"
    yield "equal to the twin", _verdict(story)
    yield "checkpoints", f"{story.done.get('listed', 0)} listed, {story.done.get('sound', 0)} verified"
    yield "time", f"{story.seconds:.0f} s"


def _resumes(story: Story) -> list[int]:
    """The step from which each process after the first went on."""
    return [line["step"] for line in story.of("resumed")[1:]]


def _moment(kill: Kill) -> str:
    return "in the middle of" if kill.inside else "just after"


def _stalls(story: Story, where: str) -> str:
    seconds = [line["seconds"] for line in story.of("stalled") if line["where"] == where]
    if not seconds:
        return "none"
    return f"mean {1e3 * sum(seconds) / len(seconds):.2f} ms, max {1e3 * max(seconds):.2f} ms"


def _verdict(story: Story) -> str:
    unequal = differences(story)
    if unequal:
        return "NO: " + "; ".join(unequal)
    return "yes, bit for bit: " + ", ".join([f"{len(story.of('step'))} losses", *story.done["digests"]])
