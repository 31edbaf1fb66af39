"""What is printed, and the application around the commands."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from asyncckpt.cli.app import COMMANDS, Lazy
from asyncckpt.cli.output import print_json, print_line, print_table
from asyncckpt.cli.printable import printable

from .conftest import Document, Run, Saved


def test_columns_are_as_wide_as_their_longest_cell_and_lines_end_without_blanks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(["A", "NUMBER", "B"], [["long", "1", ""], ["x", "22", "end"]], right=["NUMBER"])
    assert capsys.readouterr().out == "A     NUMBER  B\nlong       1\nx         22  end\n"


def test_a_table_without_rows_is_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["A", "B"], [])
    assert capsys.readouterr().out == "A  B\n"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("épochs → 5", "épochs → 5"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\udcff", r"\udcff"),
        ("a\u202eb", r"a\u202eb"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_json_is_strict() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"x": float("nan")})


def test_an_error_that_quotes_a_name_from_outside_is_still_one_line(run: Run) -> None:
    result = run("show", "no\nsuch\x1b[2Jroot@x")
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert "\x1b" not in result.stderr


# -- the application ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_list_is_there_and_takes_help(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert f"  {name} " in run("--help").stdout


def test_the_exit_status_of_an_interrupt_is_not_that_of_damage() -> None:
    class Stopped(Lazy):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return click.Command(cmd_name, callback=_interrupted)

    result = CliRunner().invoke(Stopped("asyncckpt"), ["ls"])
    assert result.exit_code == 130


def _interrupted() -> None:
    raise KeyboardInterrupt


def test_a_line_is_never_styled_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a\x1bb", "red")
    assert capsys.readouterr().out == "a\\x1bb\n"


@pytest.mark.parametrize("arguments", [["ls"], ["show"], ["verify", "x", "--slow"], ["list", "x"], ["ls", "a", "b"]])
def test_a_wrong_command_line_is_status_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert re.fullmatch(r"asyncckpt, version \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("command", ["ls", "show", "verify"])
def test_json_is_one_document_and_stderr_is_empty(document: Document, run: Run, saved: Saved, command: str) -> None:
    assert document(command, saved)["schema"] == 1
    assert run(command, saved, "--json").stderr == ""
