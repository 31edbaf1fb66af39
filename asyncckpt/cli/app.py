"""The application: a command is imported when it is used, so that ``--help`` starts at once."""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from asyncckpt import __version__
from asyncckpt.cli.exits import INTERRUPTED, PIPE_CLOSED, exit_for, reason
from asyncckpt.cli.printable import printable
from asyncckpt.errors import AsyncCkptError

COMMANDS = {
    "ls": "List the checkpoints of a run, oldest first.",
    "watch": "Show checkpoints as they come and go (or: top).",
    "show": "Show what one checkpoint holds.",
    "diff": "Show what has changed between two checkpoints.",
    "verify": "Check every byte of one or all checkpoints.",
    "resume-path": "Print what a training would resume from.",
    "doctor": "Check this machine and a root for what saves need.",
    "bench": "Measure how fast this machine and a root can save.",
    "report": "Report what a run was and what came of it.",
    "compare": "Compare many runs in one table.",
    "serve": "Show runs in a browser, as they go on.",
    "prune": "Remove what a retention policy does not keep.",
    "cp": "Copy one checkpoint to another root.",
    "sync": "Copy what is new in a root to another root.",
    "gc": "Remove what no checkpoint needs.",
    "export": "Write a checkpoint as files of another system.",
    "import": "Make a checkpoint of another system's files.",
    "tag": "Name a checkpoint, and keep it.",
    "pin": "Keep a checkpoint whatever retention says.",
    "unpin": "Leave a checkpoint to retention again.",
    "run": "Run a training, and wait for its worker processes.",
    "demo": "Train, kill, resume, compare bit for bit.",
}
"""The module and the function of each command by its name, and what the list of commands says of it."""

ALIASES = {"top": "watch"}


class Lazy(click.Group):
    """Knows its commands by name; errors of this package end as one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        name = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"asyncckpt.cli.{name}"), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and what they do, without importing any of them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=said) for name, said in COMMANDS.items() if name.startswith(incomplete)]

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
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes what is left at its end
            ctx.exit(PIPE_CLOSED)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asyncckpt")
def app() -> None:
    """Look after the checkpoints of a training run. ROOT is a folder; ROOT@latest, @best, @STEP, @ID or @TAG names one.

    A training may be saving into ROOT; only prune, gc, tag, pin, unpin and import write to it, verify --note,
    doctor and bench; cp and sync write to another one.
    The status is 0 if all is well, 1 if something is damaged or a problem, 2 if the command line is wrong, 3 if there
    is no such checkpoint, 4 if the store cannot be read. That of run is its command's.

    \b
    Completion, in bash (zsh_source and fish_source for others):
      eval "$(_ASYNCCKPT_COMPLETE=bash_source asyncckpt)"
    """
