"""The screen of ``asyncckpt watch``, drawn by rich: the newest checkpoints, and what has just changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asyncckpt.cli.counted import counted
from asyncckpt.cli.output import age, between
from asyncckpt.cli.printable import printable
from asyncckpt.cli.watching import Change, Watched, state_of
from asyncckpt.inspection.summary import Summary, short
from asyncckpt.sizes import size

_LINES = 4
"""Changes that are shown below the table."""

_AROUND = 6
"""Lines of the screen that are no row and no change."""

_HEADINGS = ("ID", "STEP", "EPOCH", "AGE", "AFTER", "TOOK", "SIZE", "STATE", "METRICS")
_FLUSH = ("STEP", "EPOCH", "AGE", "AFTER", "TOOK", "SIZE")


class Screen:
    """A view of `root` that is drawn over; entered, it owns the terminal's last lines."""

    def __init__(self, root: str) -> None:
        self._root = printable(root)
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._recent: deque[str] = deque(maxlen=_LINES)
        self._watched: Watched | None = None

    def __enter__(self) -> Screen:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, watched: Watched, changes: Sequence[Change]) -> None:
        """Draw what is listed now."""
        self._watched = watched
        self._recent.extend(change.shown for change in changes)
        self.tick()

    def tick(self) -> None:
        """Draw it again: it has grown older."""
        if self._watched is not None:
            self._live.update(self._drawn(self._watched), refresh=True)

    def _drawn(self, watched: Watched) -> Group:
        shown = watched.summaries
        room = max(1, self._console.height - _AROUND - _LINES)
        table = Table(box=box.SIMPLE_HEAD)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right" if heading in _FLUSH else "left", no_wrap=True)
        for former, summary in list(zip([None, *shown], shown, strict=False))[-room:]:
            table.add_row(*map(Text, _row(summary, former, watched.took.get(summary.info.seq))))
        head = watched.listing.head if watched.listing is not None else None
        total = size(sum(summary.info.size for summary in shown))
        title = f"{self._root}  {counted(len(shown), 'checkpoint')}, {total} of state; {state_of(head)}"
        problem = [Text(f"cannot be read: {printable(watched.error)}", style="red")] if watched.error else []
        return Group(Text(title, style="bold"), *problem, table, *(Text(line, style="dim") for line in self._recent))


def _row(summary: Summary, former: Summary | None, took: float | None) -> list[str]:
    info = summary.info
    return [
        info.id,
        str(info.step),
        "" if info.epoch is None else str(info.epoch),
        age(info.created),
        "" if former is None else between(former.info.created, info.created),
        "" if took is None else f"{took:.1f} s",
        size(info.size),
        summary.marks,
        short(info.metrics),
    ]
