"""A work tree of git: branches to work on for a while, and commits of what is named."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from asyncckpt.errors import GitOperationError
from asyncckpt.launch.git.commands import asked, git, names, tried
from asyncckpt.launch.git.lock import alone
from asyncckpt.launch.git.unfinished import given_up

logger = logging.getLogger("asyncckpt")


@dataclass(frozen=True, slots=True)
class _Place:
    """What is checked out: a branch, or a commit where there is none."""

    branch: str | None
    commit: str

    def __str__(self) -> str:
        return self.branch or self.commit


_SWITCH = ("switch", "--quiet", "--no-guess", "--no-overwrite-ignore")
"""A file that is ignored here and tracked there is the user's: git would write over it."""


class GitManager:
    """The work tree that `repo_path` lies in. Raises `GitOperationError` where there is none."""

    def __init__(self, repo_path: str | os.PathLike[str]) -> None:
        self.root = Path(git(Path(repo_path), "rev-parse", "--show-toplevel"))
        self._folder = Path(git(self.root, "rev-parse", "--absolute-git-dir"))

    @contextmanager
    def branch_context(self, branch_name: str, create_if_not_exists: bool = True) -> Iterator[None]:
        """Have `branch_name` checked out, and after that what was checked out before, whatever happens inside.

        Tracked files must be as they are committed, unless the branch is the current one. What is changed inside and
        not committed is stashed, and what was begun and not finished, a rebase or a merge, is given up, each with a
        warning that names it; files that git does not know stay where they are, but for those that are in the way.
        Where another work tree has the branch by then, its commit is checked out. Whoever wants another branch of this
        work tree waits, in other threads and processes too; contexts may be nested. Raises `GitOperationError`.
        """
        with self._alone():
            before = self._current()
            try:
                # Within: a hook that fails after git has switched leaves us there, and so does an interrupt.
                self._enter(branch_name, before, create_if_not_exists)
                yield
            except BaseException as error:
                try:
                    self._return(before)
                except GitOperationError as second:  # what went wrong inside is what the caller has to hear
                    logger.error("%s", second)
                    error.add_note(str(second))
                raise
            self._return(before)

    def create_branch(self, branch_name: str, base_branch: str | None = None) -> bool:
        """Make a branch at `base_branch`, or where we are; False where there is one of that name.

        Raises `GitOperationError` for a name that no branch can have, and for a base that is not there.
        """
        self._check(branch_name)
        start = base_branch or "HEAD"
        with self._alone():
            found = tried(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{start}^{{commit}}")
            if found.returncode:
                raise GitOperationError(f"{self.root} has no {start} that {branch_name} could begin at")
            if self._has(branch_name):
                return False
            git(self.root, "branch", "--no-track", "--", branch_name, found.stdout.strip())
            return True

    def commit_changes(self, message: str, files: Sequence[str] | None = None, add_all: bool = False) -> str:
        """Commit, and return the hash: `files` and nothing else, or all there is (`add_all`), or what is staged.

        `files` are relative to the root of the work tree. What else is staged stays so, and where no commit is made (a
        hook refuses, nothing has changed, there is no author) so does everything. A hook that fails after the commit,
        or does not end, is a warning. Raises `GitOperationError`.
        """
        if files is not None and add_all:
            raise GitOperationError("commit_changes takes files, or add_all=True, not both")
        if isinstance(files, str | os.PathLike):
            raise GitOperationError(f"commit_changes takes a list of files: [{os.fspath(files)!r}]")
        if files is not None and not files:
            raise GitOperationError("commit_changes(files=[]) names nothing to commit")
        listed = [] if files is None else ["--", *map(str, files)]
        with self._alone(), self._index_kept():
            if add_all:
                git(self.root, "add", "--all")
            elif files and (found := [str(file) for file in files if not self._is_gone(str(file))]):
                git(self.root, "--literal-pathspecs", "add", "--", *found)
            if asked(self.root, "--literal-pathspecs", "diff", "--cached", "--quiet", *listed):
                raise GitOperationError(f"{self.root}: there is nothing to commit")
            only = ["--only"] if listed else []
            self._commit(message, *only, *listed)
            return self._head()

    def _commit(self, message: str, *arguments: str) -> None:
        before = self._head()
        try:
            git(self.root, "--literal-pathspecs", "commit", "--quiet", "--file=-", *arguments, given=message)
        except GitOperationError as error:
            if (made := self._head()) == before:
                raise
            logger.warning("%s: commit %s is made, and what follows it did not end well: %s", self.root, made, error)

    def _alone(self) -> AbstractContextManager[None]:
        return alone(self._folder / "asyncckpt.lock")

    def _current(self) -> _Place:
        commit = tried(self.root, "rev-parse", "--verify", "--quiet", "HEAD")
        if commit.returncode:
            raise GitOperationError(f"{self.root} has no commit yet to come back to")
        # Not --short: that is heads/NAME where a tag has the name too.
        branch = tried(self.root, "symbolic-ref", "--quiet", "HEAD").stdout.strip().removeprefix("refs/heads/")
        return _Place(branch or None, commit.stdout.strip())

    def _has(self, branch: str) -> bool:
        return asked(self.root, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")

    def _check(self, branch: str) -> None:
        if branch.startswith("-") or not asked(self.root, "check-ref-format", f"refs/heads/{branch}"):
            raise GitOperationError(f"{branch!r} is no name that a branch can have")

    def _changes(self) -> str:
        return git(self.root, "status", "--porcelain", "--untracked-files=no")

    def _enter(self, branch: str, before: _Place, create: bool) -> None:
        self._check(branch)
        if branch == before.branch:
            return
        exists = self._has(branch)
        if not exists and not create:
            raise GitOperationError(f"{self.root} has no branch {branch}")
        if changes := self._changes():
            raise GitOperationError(
                f"{self.root} has changes that are not committed; commit or stash them to go to {branch}:\n{changes}"
            )
        git(self.root, *_SWITCH, *([] if exists else ["--create"]), branch)

    def _return(self, before: _Place) -> None:
        if self._is_at(before):
            return
        now = self._current()
        if self._changes():
            self._stash(now)
        for what in given_up(self.root, self._folder):
            logger.warning("%s: a %s was not finished on %s, and is given up at %s", self.root, what, now, now.commit)
        target = ["--", before.branch] if before.branch and self._has(before.branch) else ["--detach", before.commit]
        if before.branch is not None and (other := self._other_tree_of(before.branch)):
            logger.warning("%s: %s has %s checked out by now; here is its commit", self.root, other, before.branch)
            target = ["--detach", f"refs/heads/{before.branch}"]
        if not tried(self.root, *_SWITCH, *target).returncode or self._is_at(before):
            return
        # Only what is in the way: there may be gigabytes of outputs that git does not know.
        if in_the_way := self._in_the_way(target[1] if target[0] == "--detach" else f"refs/heads/{target[1]}"):
            self._stash(now, *in_the_way)
        git(self.root, *_SWITCH, *target)

    def _other_tree_of(self, branch: str) -> str | None:
        """Another work tree that has the branch checked out, which git lets none have twice."""
        for tree in git(self.root, "worktree", "list", "--porcelain").split("\n\n"):
            folder, *said = tree.split("\n")
            if f"branch refs/heads/{branch}" in said:
                return folder.removeprefix("worktree ")
        return None

    def _in_the_way(self, target: str) -> list[str]:
        """The files that git does not know here and has at `target`, or a folder of that name, or in place of one."""
        there = set(names(self.root, "ls-tree", "-r", "-z", "--name-only", "--full-tree", target))
        folders = {str(above) for path in there for above in PurePosixPath(path).parents}
        unknown = names(self.root, "ls-files", "-z", "--others")
        return [
            path
            for path in unknown
            if path in there or path in folders or any(str(above) in there for above in PurePosixPath(path).parents)
        ]

    def _is_at(self, place: _Place) -> bool:
        now = self._current()
        return now.branch == place.branch and (place.branch is not None or now.commit == place.commit)

    def _stash(self, place: _Place, *files: str) -> None:
        """Put away what is changed, or `files` that git does not know, ignored ones too."""
        name = f"left on {place}"
        listed = ["--all", "--pathspec-from-file=-", "--pathspec-file-nul"] if files else []
        given = "".join(f"{path}\0" for path in files)
        command = ("--literal-pathspecs", "stash", "push", "--quiet", "--message", name, *listed)
        newest = ("rev-parse", "--verify", "--quiet", "refs/stash")
        before = tried(self.root, *newest).stdout
        if tried(self.root, *command, given=given).returncode:
            # It takes no merge that is not finished, whose marks stay in the files, and none only meant to be added.
            git(self.root, "add", "--update")
            git(self.root, *command, given=given)
        if tried(self.root, *newest).stdout == before:  # it looks into no submodule, and leaves that as it is
            logger.warning("%s: what was not committed on %s lies in submodules, and stays there", self.root, place)
            return
        logger.warning("%s: what was not committed on %s is in the stash %r", self.root, place, name)

    def _head(self) -> str:
        return tried(self.root, "rev-parse", "--verify", "--quiet", "HEAD").stdout.strip()

    def _is_gone(self, file: str) -> bool:
        """Whether it was removed from the index too, so that git has nothing to add: what is staged says it all."""
        if os.path.lexists(self.root / file) or git(self.root, "--literal-pathspecs", "ls-files", "--", file):
            return False
        return not asked(self.root, "--literal-pathspecs", "diff", "--cached", "--quiet", "--", file)

    @contextmanager
    def _index_kept(self) -> Iterator[None]:
        """What is staged becomes what it was, if what is done inside fails before there is a commit."""
        index = self._folder / "index"
        before, head = index.read_bytes() if index.exists() else None, self._head()
        try:
            yield
        except BaseException:
            if self._head() != head:  # the old index would take the commit back
                raise
            if before is None:
                index.unlink(missing_ok=True)
            else:
                draft = index.with_name("index.asyncckpt")
                draft.write_bytes(before)
                draft.replace(index)
            raise
