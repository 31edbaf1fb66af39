"""The application: a command is imported when it is used, so that ``--help`` starts at once."""

from __future__ import annotations

import importlib
from typing import Any

import click

from asyncckpt import __version__
from asyncckpt.cli.exits import INTERRUPTED, exit_for, reason
from asyncckpt.cli.printable import printable
from asyncckpt.errors import AsyncCkptError

COMMANDS = {
    "ls": "List the checkpoints of a run, oldest first.",
    "show": "Show what one checkpoint holds.",
    "verify": "Check every byte of one or all checkpoints.",
    "prune": "Remove what a retention policy does not keep.",
    "tag": "Name a checkpoint, and keep it.",
    "pin": "Keep a checkpoint whatever retention says.",
    "unpin": "Leave a checkpoint to retention again.",
    "run": "Run a training, and wait for its worker processes.",
    "demo": "Train, kill, resume, compare bit for bit.",
}
"""The module and the function of each command by its name, and what the list of commands says of it."""


class Lazy(click.Group):
    """Knows its commands by name; errors of this package end as one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"asyncckpt.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AsyncCkptError as error:
            click.echo(f"asyncckpt: {printable(reason(error))}", err=True)
            ctx.exit(exit_for(error))
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asyncckpt")
def app() -> None:
    """Look after the checkpoints of a training run. ROOT is a folder; ROOT@latest, @best, @STEP, @ID or @TAG names one.

    A training may be saving into ROOT; only prune, tag, pin and unpin write to it, and verify --note.
    The status is 0 if all is well, 1 if something is damaged, 2 if the command line is wrong, 3 if there is no such
    checkpoint, 4 if the store cannot be read. That of run is its command's.
    """
