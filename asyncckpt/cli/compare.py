"""``asyncckpt compare``: many runs in one table."""

from __future__ import annotations

import click

from asyncckpt.cli.output import print_json, print_table
from asyncckpt.report import compare as compared
from asyncckpt.report import runs_in


@click.command()
@click.argument("roots", nargs=-1, required=True, metavar="ROOT...")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="A metric to show; may be given again.")
@click.option("--sort", metavar="NAME", help="Order by this metric: the best first, as the runs themselves judge it.")
@click.option("--descending/--ascending", default=None, help="Order by --sort this way instead.")
@click.option(
    "--format", "form", type=click.Choice(["table", "markdown", "csv"]), default="table", help="How it is printed."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare(
    roots: tuple[str, ...],
    metrics: tuple[str, ...],
    sort: str | None,
    descending: bool | None,
    form: str,
    as_json: bool,
) -> None:
    """Compare the runs in ROOT...: what differs in their configurations, how far each is, and its metrics.

    A ROOT that is no run stands for all runs right below it. A run without results is unfinished; whether it still
    runs its files do not say.
    """
    found = [run for root in roots for run in runs_in(root)]
    try:
        table = compared(dict.fromkeys(found), metrics=metrics, sort=sort, descending=descending)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        print_json(table.json())
    elif form == "markdown":
        click.echo(table.markdown(), nl=False)
    elif form == "csv":
        click.echo(table.csv(), nl=False)
    else:
        headings, rows = table.table()
        print_table(
            [heading.upper() for heading in headings], rows, right=("STEP", *(m.upper() for m in table.metrics))
        )
