"""``asyncckpt report``: what a run was and what came of it, on one page."""

from __future__ import annotations

from pathlib import Path

import click

from asyncckpt.cli.output import print_json
from asyncckpt.cli.select import target
from asyncckpt.report import Gathered, gather, html, markdown
from asyncckpt.report.checkpoints import lines
from asyncckpt.report.pictures import Picture
from asyncckpt.report.words import strict

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
        print_json({"root": root, **_json(run)})
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


def _json(run: Gathered) -> dict[str, object]:
    summary = {
        name: {part: strict(getattr(found, part)) for part in ("final", "min", "max", "mean", "count", "not_finite")}
        for name, found in run.history.summary().items()
    }
    return {
        "run": run.name,
        "status": run.status,
        "step": run.latest_step,
        "identity": dict(run.identity),
        "results": dict(run.results),
        "hyperparameters": dict(run.hyperparameters),
        "config": run.config.get("config"),
        "hardware": run.config.get("hardware"),
        "model": run.config.get("model"),
        "wandb": dict(run.wandb),
        "metrics": summary,
        "checkpoints": [
            {
                "id": line.id or None,
                "step": None if line.step < 0 else line.step,
                "epoch": line.epoch,
                "created": line.created,
                "seconds": line.seconds,
                "size": line.size,
                "written": line.written,
                "state": line.state,
                "why": line.fate,
                "metrics": {name: strict(value) for name, value in line.metrics.items()},
            }
            for line in lines(run)
        ],
        "problems": list(run.problems),
    }
