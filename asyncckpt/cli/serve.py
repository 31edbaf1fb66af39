"""``asyncckpt serve``: a page over runs, for a browser on this machine, until Ctrl-C."""

from __future__ import annotations

import click

from asyncckpt.cli.exits import Exit
from asyncckpt.cli.select import target
from asyncckpt.serve.extras import check_installed

PORT = 8642


@click.command()
@click.argument("root")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 for one that is free.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen; what reaches it reads all.")
@click.option(
    "--host-name", "names", multiple=True, metavar="NAME",
    help="Another name that browsers may ask for, as that of a proxy; may be given again.",
)  # fmt: skip
def serve(root: str, port: int, address: str, names: tuple[str, ...]) -> None:
    """Serve a page over ROOT, a run or a folder or bucket of runs, until Ctrl-C, which is no failure.

    It shows what was saved when, how long that took and why it is there or went; metrics; runs side by side; and what
    differs between two checkpoints. It reads only, follows a training that goes on, and asks nobody else for anything.
    The same is there as JSON below /api, as --json prints it.
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @")
    check_installed()
    from asyncckpt.serve.server import serve as served

    def told(url: str) -> None:
        click.echo(f"{root} is shown at {url} until Ctrl-C")

    try:
        served(root, address, port, names=names, told=told)
    except KeyboardInterrupt:
        click.get_current_context().exit(Exit.OK)
