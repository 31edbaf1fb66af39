"""Completion in a shell, which the help and the docs tell how to turn on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

MAIN = "import sys; sys.argv = ['asyncckpt']; from asyncckpt.cli import main; main()"


def completed(words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    asked = {"_ASYNCCKPT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    said = "lambda: sys.stderr.write(str('asyncckpt.checkpoints.catalog' in sys.modules))"
    told = f"import atexit, sys; atexit.register({said});"
    done = subprocess.run(
        [sys.executable, "-c", told + MAIN], capture_output=True, text=True, check=False, env={**os.environ, **asked}
    )
    assert done.stderr == str(" -" in words and not words.startswith("asyncckpt -")), "nobody waits for imports"
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("asyncckpt re", ["resume-path", "report"]),
        ("asyncckpt p", ["prune", "pin"]),
        ("asyncckpt gc --t", ["--take-over"]),
        ("asyncckpt resume-path --f", ["--full"]),
        ("asyncckpt --v", ["--version"]),
        ("asyncckpt nothing", []),
    ],
)
def test_commands_and_options_are_completed(words: str, offered: list[str]) -> None:
    assert completed(words) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_takes_what_the_help_says() -> None:
    script = f"""
    asyncckpt() {{ "{sys.executable}" -c "{MAIN}" "$@"; }}
    eval "$(_ASYNCCKPT_COMPLETE=bash_source asyncckpt)" && complete -p asyncckpt
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "complete -o nosort -F _asyncckpt_completion asyncckpt", done.stderr
