"""``asyncckpt run``: a command, and after it what its worker processes have still to commit."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from asyncckpt.cli.printable import printable
from asyncckpt.holding import holding

CANNOT_RUN, NOT_FOUND = 126, 127
"""The statuses by which shells tell why there was nothing to run."""


@click.command(
    context_settings={"allow_interspersed_args": False}, options_metavar="[--grace SECONDS] [--hold SIGNAL] [--]"
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARGS]...")
@click.option(
    "--grace",
    type=click.IntRange(min=0),
    default=600,
    metavar="SECONDS",
    envvar="ASYNCCKPT_RUN_GRACE",
    show_default=True,
    show_envvar=True,
    help="How long to wait for workers once COMMAND has ended.",
)
@click.option(
    "--hold",
    multiple=True,
    type=click.Choice(["SIGUSR1", "SIGUSR2"]),
    envvar="ASYNCCKPT_RUN_HOLD",
    show_envvar=True,
    help="Hold it back until COMMAND has a Preemption that handles it; may be given again.",
)
def run(command: tuple[str, ...], grace: int, hold: tuple[str, ...]) -> None:
    """Run COMMAND, and end when it and the worker processes that it leaves have ended.

    A worker process outlives a trainer that is killed, and commits what was staged. The end of a container or of a
    Slurm step kills it too: make this command the main process there. It forwards signals to COMMAND (not those that a
    terminal sends to both), reaps what ends, and after COMMAND waits for its workers, and for nothing else. A shell
    that is COMMAND passes no signal on: let it exec the trainer.

    The grace begins when COMMAND ends, also where a SIGTERM came earlier: in a container the end of the waiting kills
    the workers, so that it never helps to give up before one has to. Kubernetes does count from its SIGTERM, and kills
    everything after terminationGracePeriodSeconds: let that be enough for COMMAND to end and its workers to commit.
    Workers that are left after the grace are named, and not killed by this command. The first SIGTERM or SIGINT that
    comes while it waits changes nothing; the second ends the waiting.

    Slurm's early warning (--signal=USR1@300) kills a training that has not come so far as to handle it. With --hold
    SIGUSR1 it is blocked in COMMAND and in what that starts, and a Preemption that handles it lets it in: the training
    hears of it then, and counts its deadline from there. A command without one never does, and is not killed by it.

    The status is that of COMMAND, or 128 and the number of the signal that killed it; 127 if there is no such command,
    126 if it cannot be run. On other systems than Linux, where there are no worker processes, COMMAND just runs.

    \b
    Examples:
      ENTRYPOINT ["asyncckpt", "run", "--", "python", "train.py"]
      asyncckpt run -- sh -c 'ulimit -l unlimited; exec python train.py'
      srun asyncckpt run --grace 120 --hold SIGUSR1 -- python train.py --epochs 10
    """
    try:
        status = _supervised(command, grace, hold)
    except FileNotFoundError as error:
        status = _refused(command[0], error, NOT_FOUND)
    except OSError as error:
        status = _refused(command[0], error, CANNOT_RUN)
    click.get_current_context().exit(status)


def _supervised(command: tuple[str, ...], grace: int, hold: tuple[str, ...]) -> int:
    if sys.platform == "linux":
        from asyncckpt.cli.supervisor import Supervisor

        supervisor = Supervisor()
        status = supervisor.run(command, hold)
        supervisor.outlast(grace)
        return status
    else:
        click.echo(f"asyncckpt run: worker processes are not waited for on {sys.platform}", err=True)
        return _alone(command, hold)


def _alone(command: tuple[str, ...], hold: tuple[str, ...]) -> int:
    """Run `command` where nothing can be waited for."""
    if sys.platform == "win32":
        import subprocess

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the console sends it to both
        return subprocess.call(command)
    else:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python ignores
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.Signals[name] for name in hold])
        os.environ |= holding(hold)
        return _become(command)


def _become(command: tuple[str, ...]) -> NoReturn:
    os.execvp(command[0], command)  # noqa: S606 -- it gets every signal, for it is this process


def _refused(name: str, error: OSError, status: int) -> int:
    click.echo(f"asyncckpt run: {printable(name)}: {error.strerror}", err=True)
    return status
