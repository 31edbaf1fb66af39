"""Readers: commands of a shell that read one of their words as text of their own, and so might run what is in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ALWAYS = frozenset(
    {
        "eval",
        "ssh",
        "rsh",
        "pdsh",
        "clush",
        "xargs",
        "parallel",
        "su",
        "runuser",
        "sg",
        "watch",
        "trap",
        "at",
        "batch",
        "awk",
        "gawk",
        "mawk",
        "sed",
        "expect",
        "tmux",
        "screen",
        "script",
        "flock",
        "make",
        "alias",
        "bind",
        "let",
        "declare",
        "typeset",
        "local",
        "readonly",
        "read",
        "unset",
        "mapfile",
        "readarray",
        "<<<",
    }
)
_OF_INPUT = frozenset(
    {"ssh", "rsh", "pdsh", "clush", "xargs", "parallel", "su", "runuser", "at", "batch", "tmux", "screen"}
)
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "csh", "tcsh", "fish", "busybox"})
_INTERPRETERS = re.compile(r"(pypy|python)[\d.]*|perl|ruby|node|php|Rscript|julia|lua")
_TEXT = re.compile(r"-[A-Za-z]*[ceEpr][A-Za-z]*|--(eval|print|command|run).*")
_TEXT_OF_PYTHON = re.compile(r"-[A-Za-z]*c[A-Za-z]*")
_SUMS = frozenset({"-v", "-R", "-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
"""Of ``[[``: what is on either side is worked out, and that can run commands; so can the name of a variable."""


def reader_of(words: Sequence[str]) -> str | None:
    """Which of the words of one command, in whose text NUL is a name, reads others again; None where none does."""
    for number, word in enumerate(words):
        program = word.rpartition("/")[2]
        after = words[number + 1 :]
        if program in _ALWAYS or program.startswith("--wrap"):
            return program
        if program in _SHELLS and (not after or after[0][:1] in ("-", "<", ">", "")):
            return program
        if _INTERPRETERS.fullmatch(program) and _reads_text(program, after):
            return program
        if program == "env" and any(each.startswith(("-S", "--split")) for each in after):
            return "env -S"
        if program in ("[[", "[", "test", "printf") and not (_SUMS if program == "[[" else {"-v", "-R"}).isdisjoint(
            after
        ):
            return program
        if re.search(r"\w\[[^\]]*\0", word):
            return "the index of an array"
    return None


def reads_input(reader: str) -> bool:
    """Whether this one, which `reader_of` has found, also reads commands that come through a pipe."""
    return reader in _SHELLS or reader in _OF_INPUT or _INTERPRETERS.fullmatch(reader) is not None


def _reads_text(program: str, after: Sequence[str]) -> bool:
    """Whether an interpreter is given its program as a text, or on its input."""
    is_python = program.startswith("py")
    text = _TEXT_OF_PYTHON if is_python else _TEXT
    words = iter(after)
    for word in words:
        if word == "-" or text.fullmatch(word):
            return True
        if is_python and word in ("-W", "-X"):
            next(words, None)
        elif is_python and (word == "-m" or not word.startswith("-")):
            return word[:1] in ("<", ">")
    return is_python or all(word[:1] in ("-", "<", ">") for word in after)
