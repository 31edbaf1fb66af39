"""Unfinished: what git has begun in a work tree and waits with, and will not leave a branch for."""

from __future__ import annotations

from pathlib import Path

from asyncckpt.launch.git.commands import git

_BEGUN = (
    ("rebase-apply/applying", "git am", ("am", "--quit")),
    ("rebase-merge", "rebase", ("rebase", "--quit")),
    ("rebase-apply", "rebase", ("rebase", "--quit")),
    ("CHERRY_PICK_HEAD", "cherry-pick", ("cherry-pick", "--quit")),
    ("REVERT_HEAD", "revert", ("revert", "--quit")),
    ("sequencer", "cherry-pick", ("cherry-pick", "--quit")),
    ("MERGE_HEAD", "merge", ("merge", "--quit")),
    ("BISECT_LOG", "bisection", ("bisect", "reset", "HEAD")),
)
"""The mark of each in git's folder, what it is called, and how it is given up with the work tree left as it is."""


def given_up(root: Path, folder: Path) -> list[str]:
    """Give up what was begun in the work tree `root`, whose folder of git is `folder`; returns what that was.

    The commits that it has made so far stay, and no branch is moved. Raises `GitOperationError`.
    """
    found = []
    for mark, what, command in _BEGUN:
        if (folder / mark).exists():
            git(root, *command)
            found.append(what)
    return found
