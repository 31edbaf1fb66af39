"""What goes to a terminal and what into a pipe, with real terminals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Saved

pty = pytest.importorskip("pty", reason="needs POSIX terminals", exc_type=ImportError)


def on_terminal(*command: str, stdout: bool, stderr: bool, **environment: str) -> tuple[str, str]:
    """What a command writes to a terminal (stdout or stderr are one, as told), and what into a pipe."""
    return running("-m", "asyncckpt", *command, stdout=stdout, stderr=stderr, **environment)


def running(*arguments: str, stdout: bool, stderr: bool, **environment: str) -> tuple[str, str]:
    """The same of Python with those arguments."""
    ours, theirs = pty.openpty()
    streams = {"stdout": theirs if stdout else subprocess.PIPE, "stderr": theirs if stderr else subprocess.PIPE}
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    environment = {**inherited, "TERM": "xterm", "COLUMNS": "80", **environment}
    with subprocess.Popen([sys.executable, *arguments], **streams, env=environment) as process:
        os.close(theirs)
        seen = b"".join(iter(lambda: _read(ours), b""))
        piped = b"".join(pipe.read() for pipe in (process.stdout, process.stderr) if pipe)
    os.close(ours)
    assert process.returncode == 0, piped
    return seen.decode(), piped.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that nobody has the other end open any more
        return b""


def test_on_a_terminal_tables_are_drawn(saved: Saved) -> None:
    seen, piped = on_terminal("ls", str(saved), stdout=True, stderr=False)
    assert piped == ""
    assert "\u2500" in seen
    assert "00000003" in re.sub(r"\x1b\[[\d;]*m", "", seen)


TABLES = """
import os, sys
from asyncckpt.cli.output import _fold, print_table
headings, flush = ["NAME", "SIZE", "WHY"], [False, True, False]
rows = [["a", "1 B", ""], ["long", "22 B", "x" * 12]]
def table(rows, columns, **environment):
    os.environ.update(environment, COLUMNS=str(columns))
    print_table(headings, rows, right=["SIZE"])
    print("|")
table(rows, 30)
_fold(headings, rows, flush)
print("|")
table(rows, 29)
table([*rows, ["\u5927", "1 B", "\u5927" * 12]], 30)
table([*rows] * 101, 29)
table(rows, 80, TERM="dumb")
sys.stdout.reconfigure(encoding="ascii")
table(rows, 80)
sys.modules["rich"] = None
table(rows, 29)
"""


def test_a_table_is_drawn_as_rich_draws_it_which_is_asked_where_it_has_to_be_folded() -> None:
    seen, _ = running("-c", TABLES, stdout=True, stderr=False)
    assert re.search(r"^\x1b\[1m  NAME +SIZE +WHY\x1b\[0m\r\n", seen, re.MULTILINE)
    plain = re.sub(r"\x1b\[[\d;]*m", "", seen)
    drawn = [[line.rstrip() for line in table.split("\r\n")][:-1] for table in re.split(r"(?<=\n)\|\r\n", plain)]
    fits, by_rich, narrow, wide, long, dumb, ascii_only, without_rich, _ = drawn
    rule = "\u2500" * 28
    assert fits == ["", "  NAME   SIZE   WHY", f" {rule}", "  a       1 B", "  long   22 B   xxxxxxxxxxxx", ""]
    assert by_rich == fits
    assert [line.strip() for line in narrow[-3:-1]] == ["long   22 B   xxxxxxxxxxx", "x"], "folded, and not cut off"
    assert "\u5927" * 6 in wide[-3], "of letters that take two columns as many as fit"
    assert "\u5927" * 7 not in wide[-3]
    assert long == [*fits[:3], *fits[3:5] * 101, ""], "of very many lines each stays as it is: the terminal folds them"
    assert dumb == fits
    assert ascii_only == without_rich == [*fits[:2], f" {'-' * 28}", *fits[3:]]
    assert "\x1b" not in seen[seen.rindex(rule) :], "a terminal that knows no styles is sent none"


def test_on_a_terminal_progress_is_shown_and_stdout_stays_clean(saved: Saved) -> None:
    seen, piped = on_terminal("verify", str(saved), stdout=False, stderr=True)
    assert piped == "00000001  step 10  ok\n00000002  step 20  ok\n00000003  step 30  ok\n"
    assert re.search(r"checking 2 of 3: step 20, [\d.]+ \w+, 100 %\r", seen)
    assert seen.endswith("\r\x1b[2K")


def test_progress_is_cleared_before_a_verdict_is_printed(saved: Saved) -> None:
    seen, _ = on_terminal("verify", f"{saved}@20", stdout=True, stderr=True)
    assert re.fullmatch(r"(\r\x1b\[2Kchecking [^\r]*)+\r\x1b\[2K\x1b\[32m00000002.*\r\n\r\x1b\[2K", seen)


def test_progress_never_takes_a_second_line(saved: Saved) -> None:
    seen, _ = on_terminal("verify", str(saved), stdout=False, stderr=True, COLUMNS="20")
    assert "checking 2 of 3: st\r" in seen


def test_verdicts_are_coloured_on_a_terminal_and_progress_needs_stderr(saved: Saved) -> None:
    seen, piped = on_terminal("verify", f"{saved}@20", stdout=True, stderr=False)
    assert (seen, piped) == ("\x1b[32m00000002  step 20  ok\x1b[0m\r\n", "")


def test_a_copy_shows_what_it_is_at_on_a_terminal_alone(saved: Saved, tmp_path: Path) -> None:
    seen, piped = on_terminal("sync", str(saved), str(tmp_path / "other"), stdout=False, stderr=True)
    assert [line.split("  ")[:2] for line in piped.splitlines()] == [
        [f"0000000{number}", f"step {number}0"] for number in (1, 2, 3)
    ]
    assert re.search(r"copying 2 of 3: step 20, [\d.]+ \w+", seen)
    assert seen.endswith("\r\x1b[2K")


def test_no_color_is_respected(saved: Saved) -> None:
    seen, _ = on_terminal("verify", f"{saved}@20", stdout=True, stderr=False, NO_COLOR="1")
    assert seen == "00000002  step 20  ok\r\n"


def test_what_goes_to_and_from_other_systems_shows_how_far_it_is_on_a_terminal_alone(
    saved: Saved, tmp_path: Path
) -> None:
    out = str(tmp_path / "x.safetensors")
    for command, doing in (
        (("export", str(saved), out, "--to", "safetensors"), "exporting"),
        (("import", out, str(tmp_path / "again")), "reading"),
    ):
        seen, piped = on_terminal(*command, stdout=False, stderr=True)
        assert re.fullmatch(r"0000000\d \(step 30\): 2 tensors, [\d.]+ \w+, in .*\n", piped)
        assert re.search(rf"{doing} [\d.]+ \w+, 100 %\r", seen)
        assert seen.endswith("\r\x1b[2K")
