"""What the demo shows: a live progress bar and a table on a terminal, terse lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

import click

Rows = Iterable[tuple[str, str]]


class Screen(Protocol):
    """Where the demo is watched."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """Show a line that stays."""
        ...

    def progress(self, *, trainer: int, twin: int) -> None:
        """Show the last completed step of both processes."""
        ...

    def table(self, title: str, rows: Rows) -> None:
        """Show what was found."""
        ...


def screen(steps: int) -> Screen:
    """The best screen for this stdout."""
    if sys.stdout.isatty():
        try:
            return RichScreen(steps)
        except ImportError:
            pass
    return PlainScreen(steps)


class PlainScreen:
    """Lines of text: one for each fifth of the way."""

    def __init__(self, steps: int) -> None:
        self._steps, self._shown = steps, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def say(self, text: str) -> None:
        click.echo(text)

    def progress(self, *, trainer: int, twin: int) -> None:
        fifth = 5 * trainer // self._steps
        if fifth > self._shown:
            self._shown = fifth
            click.echo(f"  step {trainer} of {self._steps} (twin {twin})")

    def table(self, title: str, rows: Rows) -> None:
        rows = list(rows)
        width = max(len(name) for name, _ in rows)
        click.echo(f"\n{title}")
        for name, value in rows:
            click.echo(f"  {name:<{width}}  {value}")


class RichScreen:
    """A progress bar for each process, and a drawn table; raises `ImportError` where rich is absent."""

    def __init__(self, steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bars = Progress(*columns, transient=True)
        self._trainer = self._bars.add_task("trainer", total=steps)
        self._twin = self._bars.add_task("twin", total=steps)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False)

    def progress(self, *, trainer: int, twin: int) -> None:
        self._bars.update(self._trainer, completed=trainer)
        self._bars.update(self._twin, completed=twin)

    def table(self, title: str, rows: Rows) -> None:
        from rich.table import Table

        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, value in rows:
            table.add_row(name, value)
        self._bars.console.print(table)
