"""Real processes: what is imported, what is written, and the status that a script sees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from asyncckpt.cli.app import ALIASES, COMMANDS, app

from .conftest import Run, Saved, flip, tree

HEAVY = (
    "{'torch', 'numpy', 'asyncio', 'rich', 'asyncckpt.checkpoints.catalog', 'asyncckpt.cli.ls', 'asyncckpt.cli.demo'}"
)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def asyncckpt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "asyncckpt", *arguments], capture_output=True, text=True, check=False)


def test_help_imports_nothing_that_takes_time() -> None:
    done = python(
        f"import sys, atexit; atexit.register(lambda: print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr));"
        "sys.argv = ['asyncckpt', '--help']; from asyncckpt.cli import main; main()"
    )
    assert done.stderr == "[]\n"
    assert done.stdout.startswith("Usage: asyncckpt ")


def test_scripts_see_the_status_and_people_one_line(saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    flip(saved.pack(2))
    for status, root in ((0, f"{saved}@30"), (1, str(saved)), (3, str(tmp_path)), (4, str(tmp_path / "file"))):
        done = asyncckpt("verify", root)
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == (1 if status > 1 else 0), done.stderr
    assert asyncckpt("verify").returncode == 2


def test_every_command_is_in_the_docs_and_has_help(run: Run) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for name in (*COMMANDS, *ALIASES):
        assert re.search(rf"`{name}\b", page), f"docs/cli.md does not tell of {name}"
        done = run(name, "--help")
        assert (done.exit_code, done.stdout.startswith("Usage: ")) == (0, True)
        assert name in ALIASES or name in run("--help").stdout


def test_every_option_is_in_the_docs_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    table = page.partition("## Every option")[2].partition("\n## ")[0]
    told: dict[str, set[str]] = {}
    for commands, options in re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE):
        for name in re.findall(r"`([a-z-]+)", commands):
            told[name] = set(re.findall(r"`(--[a-z-]+)", options))
    context = click.Context(app)
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        given = {text for option in command.params for text in (*option.opts, *option.secondary_opts)}
        assert told.pop(name) == {text for text in given if text.startswith("--")}, name
    assert told == {}


def test_a_broken_click_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import no_such_module")
    done = python("from asyncckpt.cli import main; main()", PYTHONPATH=str(tmp_path))
    assert "No module named 'no_such_module'" in done.stderr
    assert "pip install" not in done.stderr


def test_the_module_can_be_imported_without_running() -> None:
    assert python("import asyncckpt.__main__; print('here')").stdout == "here\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_who_has_read_enough_is_neither_damage_nor_a_traceback(saved: Saved) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "asyncckpt", "ls", str(saved)], stdout=theirs, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["ls", "--damaged", "--incomplete"],
        ["gc"],
        ["resume-path"],
        ["resume-path", "--full"],
        ["doctor", "--read-only"],
        ["show"],
        ["show", "--tensors"],
        *(["verify", *more] for more in ([], ["--quick"], ["--json"])),
    ],
)
def test_nothing_is_written_to_the_root(run: Run, saved: Saved, arguments: list[str], damaged: bool) -> None:
    if damaged:
        flip(saved.pack(2))
        saved.manifest(3).unlink()
        flip(saved.record(1), 40)
    before = tree(saved.root.parent)
    run(arguments[0], saved, *arguments[1:])
    assert tree(saved.root.parent) == before


@pytest.mark.parametrize("arguments", [
    ["gc"], ["resume-path"], ["ls", "--incomplete"], ["doctor"], ["bench", "--size=1MiB"],
    ["export", "@99", "--to=torch"], ["export", "@99", "--to=dcp"],
])  # fmt: skip
def test_commands_need_no_torch(saved: Saved, arguments: list[str], tmp_path: Path) -> None:
    """Nor do those that need it for what is not there."""
    name, *more = arguments
    root, more = (f"{saved}{more[0]}", [str(tmp_path / "out"), *more[1:]]) if name == "export" else (str(saved), more)
    done = python(
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr));"
        f"sys.argv = {['asyncckpt', name, root, *more]!r};"
        "from asyncckpt.cli import main; main()",
        ASYNCCKPT_RUNTIME_DIR=str(tmp_path / "runtime"),
    )
    assert done.stderr.splitlines()[-1] == "False"
    assert done.returncode == (3 if name == "export" else 0), done.stderr
