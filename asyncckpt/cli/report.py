"""``asyncckpt report``: what a run was and what came of it, on one page."""

from __future__ import annotations

from pathlib import Path

import click

from asyncckpt.cli.output import print_json
from asyncckpt.cli.select import target
from asyncckpt.report import Gathered, gather, html, markdown
from asyncckpt.report.outline import json_of
from asyncckpt.report.pictures import Picture

_KINDS = (".html", ".md")


@click.command()
@click.argument("root")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write an .html page that needs nothing else, or an .md file with its pictures beside it.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def report(root: str, output: Path | None, as_json: bool) -> None:
    """Report what the run in ROOT was, and what came of it: as Markdown, or into a FILE.

    Its configuration, code version, hardware, results, metrics with their curves, and every checkpoint with its size,
    how long it took, and why it is there or went. Secrets are masked. What is damaged is said.
    """
    if target(root).which is not None:
        raise click.UsageError(f"{root} names one checkpoint: leave out the @, or use show")
    if output is not None and output.suffix.lower() not in _KINDS:
        raise click.BadParameter(f"{output}: a report is .html or .md", param_hint="--output")
    run = gather(root)
    if output is not None:
        try:
            _write(run, output)
        except OSError as error:
            raise click.FileError(str(output), error.strerror or str(error)) from error
        click.echo(f"wrote {output}", err=True)
    if as_json:
        print_json({"root": root, **json_of(run)})
    elif output is None:
        click.echo(markdown(run), nl=False)


def _write(run: Gathered, output: Path) -> None:
    if output.suffix.lower() == ".html":
        output.write_text(html(run), encoding="utf-8")
        return

    def beside(picture: Picture) -> str:
        path = output.with_name(f"{output.stem}-{picture.name}.png")
        path.write_bytes(picture.png)
        return path.name.replace(" ", "%20")

    output.write_text(markdown(run, beside), encoding="utf-8")
