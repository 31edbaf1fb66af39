"""The application: a command is imported when it is used, so that ``--help`` starts at once."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from asyncckpt import __version__
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError, CheckpointNotFoundError, RestoreError, RunError

_COMMANDS = {
    "ls": "List the checkpoints of a run.",
    "show": "Show what one checkpoint holds.",
    "verify": "Check every byte of one or all checkpoints.",
    "demo": "Train, kill, resume, compare bit for bit.",
}


class _Lazy(click.Group):
    """Knows its commands by name; errors of this package end as one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"asyncckpt.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AsyncCkptError as error:
            click.echo(f"asyncckpt: {error}", err=True)
            sys.exit(_code(error))


def _code(error: AsyncCkptError) -> int:
    if isinstance(error, CheckpointNotFoundError):
        return 3
    return 1 if isinstance(error, CheckpointCorruptError | RestoreError | RunError) else 4


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asyncckpt")
def app() -> None:
    """Look at the checkpoints of a training run. ROOT is a folder; ROOT@latest, @best, @STEP or @ID names one."""
