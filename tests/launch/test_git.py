"""E34 to E37: branches and commits, in real repositories."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncckpt.errors import AsyncCkptError
from asyncckpt.launch.git import GitManager, GitOperationError, commands, lock


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout.rstrip("\n")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with a commit of ``a.txt`` and ``b.txt`` on the branch ``main``."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Somebody")
    git(folder, "config", "user.email", "somebody@example.org")
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"{name}\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


def branch(folder: Path) -> str:
    return git(folder, "branch", "--show-current")


def commit(folder: Path, name: str = "c.txt") -> str:
    (folder / name).write_text("changed\n")
    return GitManager(folder).commit_changes("a change", [name])


# -- E34 ---------------------------------------------------------------------------------------------------


def test_e34_inside_is_the_branch_and_after_it_what_was_before(repository: Path) -> None:
    manager = GitManager(repository)
    with manager.branch_context("work"):
        assert branch(repository) == "work"
        made = commit(repository)
    assert branch(repository) == "main"
    assert not (repository / "c.txt").exists()
    with manager.branch_context("work", create_if_not_exists=False):
        assert git(repository, "rev-parse", "HEAD") == made


def test_e34_a_file_that_is_ignored_here_and_tracked_there_is_not_written_over(repository: Path) -> None:
    with GitManager(repository).branch_context("old"):
        commit(repository, "settings.json")
    (repository / ".gitignore").write_text("settings.json\n")
    GitManager(repository).commit_changes("ignored", [".gitignore"])
    (repository / "settings.json").write_text("mine")
    with pytest.raises(GitOperationError), GitManager(repository).branch_context("old"):
        raise AssertionError("never inside")
    assert branch(repository) == "main"
    assert (repository / "settings.json").read_text() == "mine"


def test_e34_a_hook_that_fails_after_the_switch_leaves_nobody_there(repository: Path) -> None:
    live = repository / "live.log"
    live.write_text("of a run")
    hook = repository / ".git/hooks/post-checkout"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(GitOperationError), GitManager(repository).branch_context("work"):
        raise AssertionError("never inside")
    assert branch(repository) == "main"
    assert live.read_text() == "of a run"
    assert git(repository, "stash", "list") == ""


def test_e34_a_tag_of_the_same_name_is_no_branch(repository: Path) -> None:
    git(repository, "tag", "main")
    with GitManager(repository).branch_context("work"):
        assert branch(repository) == "work"
    assert branch(repository) == "main"


def test_e34_a_process_that_was_forked_inside_holds_nobody_up(repository: Path) -> None:
    manager = GitManager(repository)
    reading, writing = os.pipe()
    with manager.branch_context("work"):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # lives on until the parent has seen
            os._exit(0)
    os.close(reading)
    found = subprocess.run(
        [sys.executable, "-c", "import sys; from asyncckpt.launch import GitManager\n"
         "print(GitManager(sys.argv[1]).create_branch('other'))", str(repository)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    os.close(writing)
    os.waitpid(child, 0)
    assert found.stdout == "True\n"


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt(), SystemExit(3)])
def test_e34_an_exception_goes_through_and_the_branch_comes_back(repository: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, GitManager(repository).branch_context("work"):
        raise error
    assert raised.value is error
    assert branch(repository) == "main"


def test_e34_a_detached_head_comes_back(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    commit(repository)
    git(repository, "checkout", "--quiet", "--detach", first)
    with GitManager(repository).branch_context("main"):
        assert (repository / "c.txt").exists()
    assert (branch(repository), git(repository, "rev-parse", "HEAD")) == ("", first)
    with GitManager(repository).branch_context("work"):
        git(repository, "checkout", "--quiet", "--detach", "main")  # another commit, and no branch either
    assert (branch(repository), git(repository, "rev-parse", "HEAD")) == ("", first)


def test_e34_a_dirty_tree_is_refused_as_it_is(repository: Path) -> None:
    (repository / "a.txt").write_text("mine\n")
    (repository / "b.txt").write_text("mine too\n")
    git(repository, "add", "b.txt")
    (repository / "unknown.txt").write_text("unknown\n")
    status = git(repository, "status", "--porcelain")
    with pytest.raises(GitOperationError, match=r"(?s)not committed; commit or stash them to go to work:.*a\.txt"):
        GitManager(repository).branch_context("work").__enter__()
    assert (git(repository, "status", "--porcelain"), branch(repository)) == (status, "main")
    assert git(repository, "branch", "--list", "work") == ""
    with GitManager(repository).branch_context("main"):  # which is here already
        assert git(repository, "status", "--porcelain") == status
    assert git(repository, "status", "--porcelain") == status


def test_e34_what_was_left_inside_is_in_the_stash(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    (repository / "data.bin").write_text("of the user\n")
    with GitManager(repository).branch_context("work"):
        (repository / "a.txt").write_text("left\n")
    assert branch(repository) == "main"
    assert git(repository, "status", "--porcelain") == "?? data.bin"
    assert git(repository, "show", "stash@{0}:a.txt") == "left"
    assert "what was not committed on work is in the stash 'left on work'" in caplog.text


def test_e34_a_file_that_git_does_not_know_is_in_nobodys_way(repository: Path) -> None:
    with GitManager(repository).branch_context("work"):
        git(repository, "rm", "--quiet", "a.txt")
        git(repository, "commit", "--quiet", "--message=removed")
        (repository / "a.txt").write_text("another\n")
    assert (branch(repository), (repository / "a.txt").read_text()) == ("main", "a.txt\n")
    assert git(repository, "show", "stash@{0}^3:a.txt") == "another"


def test_e34_only_what_is_in_the_way_is_put_away(repository: Path) -> None:
    (repository / "folder").mkdir()
    (repository / "folder" / "a*.txt").write_text("ours\n")
    GitManager(repository).commit_changes("a folder", add_all=True)
    with GitManager(repository).branch_context("work"):
        git(repository, "rm", "--quiet", "-r", "a.txt", "b.txt", "folder")
        (repository / ".gitignore").write_text("a.txt\nlarge.bin\n")
        GitManager(repository).commit_changes("removed", add_all=True)
        for name in ("a.txt", "folder", "large.bin", "folderless.txt"):
            (repository / name).write_text("of a run\n")
        (repository / "b.txt").mkdir()  # where there is a file
        (repository / "b.txt" / "deep.txt").write_text("of a run\n")
    assert (branch(repository), (repository / "a.txt").read_text()) == ("main", "a.txt\n")
    assert (repository / "b.txt").read_text() == "b.txt\n"
    assert git(repository, "ls-tree", "--name-only", "stash@{0}^3").split() == ["a.txt", "b.txt", "folder"]
    for name in ("large.bin", "folderless.txt"):
        assert (repository / name).read_text() == "of a run\n"


def test_e34_a_branch_that_another_work_tree_has_by_then_sweeps_nothing_away(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with GitManager(repository).branch_context("work"):
        commit(repository)
        (repository / "a.log").write_text("of a run\n")
        git(repository, "worktree", "add", "--quiet", str(tmp_path / "other"), "main")
    assert (repository / "a.log").read_text() == "of a run\n"
    assert git(repository, "stash", "list") == ""
    assert (branch(repository), git(repository, "rev-parse", "HEAD")) == ("", git(repository, "rev-parse", "main"))
    assert f"{tmp_path / 'other'} has main checked out by now; here is its commit" in caplog.text


def begin(repository: Path, how: str) -> None:
    """Something that git waits with; raises, as what is called in a context does."""
    (repository / "a.log").write_text("of a run\n")
    if how == "bisect":
        git(repository, "bisect", "start", "work", "main~1")
    git(repository, *(["show", "nowhere"] if how == "bisect" else [how, "main"]))


@pytest.mark.parametrize("how", ["rebase", "cherry-pick", "bisect"])
def test_e34_what_was_begun_and_not_finished_is_given_up_and_sweeps_nothing_away(
    repository: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with GitManager(repository).branch_context("work"):
        made = commit(repository, "a.txt")
    (repository / "a.txt").write_text("other\n")
    git(repository, "commit", "--quiet", "--all", "--message=other")
    with pytest.raises(subprocess.CalledProcessError), GitManager(repository).branch_context("work"):
        begin(repository, how)
    assert (branch(repository), git(repository, "status", "--porcelain")) == ("main", "?? a.log")
    assert git(repository, "rev-parse", "work") == made
    if how != "cherry-pick":  # the stash has given that one up already
        assert f"a {'bisection' if how == 'bisect' else how} was not finished on" in caplog.text
    with GitManager(repository).branch_context("work"):
        assert branch(repository) == "work"


def test_e34_a_file_that_is_only_meant_to_be_added_is_in_the_stash(repository: Path) -> None:
    with GitManager(repository).branch_context("work"):
        (repository / "new.txt").write_text("new\n")
        git(repository, "add", "--intent-to-add", "new.txt")
    assert (branch(repository), git(repository, "status", "--porcelain")) == ("main", "")
    assert git(repository, "show", "stash@{0}:new.txt") == "new"


def test_e34_a_merge_that_was_not_finished_is_not_in_the_way(repository: Path) -> None:
    with GitManager(repository).branch_context("work"):
        commit(repository, "a.txt")
    (repository / "a.txt").write_text("other\n")
    git(repository, "commit", "--quiet", "--all", "--message=other")
    with pytest.raises(subprocess.CalledProcessError), GitManager(repository).branch_context("work"):
        git(repository, "merge", "main")
    assert (branch(repository), git(repository, "status", "--porcelain")) == ("main", "")
    assert "<<<<<<<" in git(repository, "show", "stash@{0}:a.txt")


def test_e34_whatever_is_checked_out_inside(repository: Path) -> None:
    git(repository, "branch", "other")
    with GitManager(repository).branch_context("work"):
        git(repository, "switch", "--quiet", "other")
    assert branch(repository) == "main"
    with GitManager(repository).branch_context("main"):
        git(repository, "switch", "--quiet", "other")
    assert branch(repository) == "main"
    before = git(repository, "rev-parse", "HEAD")
    with GitManager(repository).branch_context("work"):
        commit(repository)
        git(repository, "branch", "--quiet", "-D", "main")
    assert (branch(repository), git(repository, "rev-parse", "HEAD")) == ("", before)  # its commit, where it is gone


def test_e34_contexts_are_nested(repository: Path) -> None:
    outer, inner = GitManager(repository), GitManager(repository)
    with outer.branch_context("one"):
        with inner.branch_context("two"):
            assert branch(repository) == "two"
            with outer.branch_context("main"):
                assert branch(repository) == "main"
        assert branch(repository) == "one"
    assert branch(repository) == "main"


def test_e34_threads_take_turns(repository: Path) -> None:
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(3):
            with GitManager(repository).branch_context(name):
                commit(repository, f"{name}.txt") if not (repository / f"{name}.txt").exists() else None
                if branch(repository) != name:
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, branch(repository)) == ([], "main")
    assert git(repository, "ls-tree", "--name-only", "one").split() == ["a.txt", "b.txt", "one.txt"]


HOLDER = """
import sys
from asyncckpt.launch.git import GitManager
with GitManager(sys.argv[1]).branch_context("held"):
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_e34_processes_take_turns_and_one_that_dies_holds_nobody_up(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(repository)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"inside\n"
        with pytest.raises(GitOperationError, match="another thread or process has worked on this repository"):
            GitManager(repository).branch_context("work").__enter__()
        assert branch(repository) == "held"
        holder.kill()
    with GitManager(repository).branch_context("work"):
        assert branch(repository) == "work"
    assert branch(repository) == "held"  # where the killed one left it: it was what was checked out


def test_e34_what_cannot_be_is_an_error(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = GitManager(repository)
    with pytest.raises(GitOperationError, match="has no branch nowhere"):
        manager.branch_context("nowhere", create_if_not_exists=False).__enter__()
    for name in ("--force", "a b", "", "a..b", "a~1"):
        with pytest.raises(GitOperationError, match="is no name that a branch can have"):
            manager.branch_context(name).__enter__()
    with pytest.raises(GitOperationError, match="not a git repository"):
        GitManager(tmp_path)
    git(tmp_path, "init", "--quiet", "empty")
    with pytest.raises(GitOperationError, match="has no commit yet"):
        GitManager(tmp_path / "empty").branch_context("work").__enter__()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitOperationError, match="could not be run"):
        manager.create_branch("work")
    assert branch_of(repository) == "main"


def branch_of(folder: Path) -> str:
    return (folder / ".git" / "HEAD").read_text().strip().rpartition("/")[2]


def test_e34_what_is_not_committed_in_a_submodule_stays_there_and_no_stash_is_told(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`git stash` looks into none."""
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "--quiet", "--initial-branch=main")
    (inner / "x.txt").write_text("old")
    git(inner, "add", ".")
    git(inner, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "--message=x")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "inner")
    git(repository, "commit", "--quiet", "--message=a submodule")
    with GitManager(repository).branch_context("work"):
        (repository / "inner/x.txt").write_text("new")
    assert branch(repository) == "main"
    assert (repository / "inner/x.txt").read_text() == "new"
    assert git(repository, "stash", "list") == ""
    assert "what was not committed on work lies in submodules, and stays there" in caplog.text


# -- E35 ---------------------------------------------------------------------------------------------------


def test_e35_a_branch_is_made_once_and_nothing_is_checked_out(repository: Path) -> None:
    manager = GitManager(repository)
    assert manager.create_branch("one")
    with manager.branch_context("one"):
        made = commit(repository)
    assert manager.create_branch("two", "one")
    assert git(repository, "rev-parse", "two") == made
    assert manager.create_branch("two") is False
    assert git(repository, "rev-parse", "two") == made
    assert branch(repository) == "main"


@pytest.mark.parametrize("name", ["-d", "--delete", "a b", "a..b", "", "x.lock", "/x"])
def test_e35_a_name_that_none_can_have_is_refused(repository: Path, name: str) -> None:
    git(repository, "branch", "kept")
    with pytest.raises(GitOperationError, match="is no name that a branch can have"):
        GitManager(repository).create_branch(name)
    assert git(repository, "branch", "--list").split() == ["kept", "*", "main"]


@pytest.mark.parametrize("base", ["nowhere", "--all", "-D"])
def test_e35_a_base_that_is_not_there_is_an_error(repository: Path, base: str) -> None:
    with pytest.raises(GitOperationError, match=f"has no {base} that work could begin at"):
        GitManager(repository).create_branch("work", base)


# -- E36 ---------------------------------------------------------------------------------------------------


def committed(folder: Path) -> list[str]:
    return git(folder, "show", "--name-only", "--format=", "HEAD").split("\n")


def test_e36_only_the_listed_files_are_committed_and_what_is_staged_stays_so(repository: Path) -> None:
    for name in ("a.txt", "b.txt", "new.txt", "*.txt", "foreign.txt"):
        (repository / name).write_text("changed\n")
    git(repository, "add", "b.txt", "foreign.txt")
    made = GitManager(repository).commit_changes("-m is no option\n\n# nor is this a comment", ["a.txt", "*.txt"])
    assert git(repository, "rev-parse", "HEAD") == made
    assert sorted(committed(repository)) == ["*.txt", "a.txt"]
    assert git(repository, "status", "--porcelain").split("\n") == ["M  b.txt", "A  foreign.txt", "?? new.txt"]
    assert git(repository, "log", "-1", "--format=%B").rstrip() == "-m is no option\n\n# nor is this a comment"


def test_e36_removed_files_all_files_and_what_is_staged(repository: Path) -> None:
    manager = GitManager(repository)
    (repository / "a.txt").unlink()
    (repository / "new.txt").write_text("new\n")
    manager.commit_changes("removed", ["a.txt"])
    assert committed(repository) == ["a.txt"]
    (repository / "b.txt").write_text("changed\n")
    git(repository, "add", "new.txt")
    manager.commit_changes("what is staged")
    assert committed(repository) == ["new.txt"]
    (repository / "-x.txt").write_text("changed\n")
    manager.commit_changes("all", add_all=True)
    assert sorted(committed(repository)) == ["-x.txt", "b.txt"]
    (repository / "-x.txt").write_text("again\n")
    manager.commit_changes("a name like an option", ["-x.txt"])
    assert committed(repository) == ["-x.txt"]


def test_e36_what_git_has_removed_or_moved_already_is_committed(repository: Path) -> None:
    manager = GitManager(repository)
    (repository / "folder").mkdir()
    for name in ("x.txt", "y.txt"):
        (repository / "folder" / name).write_text("x\n")
    manager.commit_changes("a folder", ["folder"])
    git(repository, "rm", "--quiet", "a.txt")
    git(repository, "rm", "--quiet", "-r", "folder")
    git(repository, "mv", "b.txt", "c.txt")
    manager.commit_changes("removed", ["a.txt", "folder"])
    assert committed(repository) == ["a.txt", "folder/x.txt", "folder/y.txt"]
    manager.commit_changes("moved", ["b.txt", "c.txt"])
    assert git(repository, "ls-files").split() == ["c.txt"]
    assert git(repository, "status", "--porcelain") == ""


class Impatient(subprocess.Popen[str]):
    """Waits for git's commits until their hook is at work, and no longer."""

    reached: Path

    def communicate(self, given: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        if "commit" not in self.args:
            return super().communicate(given, timeout)
        while True:
            try:
                return super().communicate(given, 0.1)
            except subprocess.TimeoutExpired:
                if self.reached.exists():
                    raise
                given = None


def hanging(repository: Path, name: str, patch: pytest.MonkeyPatch) -> Path:
    """A hook that does not end; git is given up once it is there."""
    hook, reached = repository / ".git" / "hooks" / name, repository / ".git" / "reached"
    hook.write_text(f"#!/bin/sh\ntouch '{reached}'\nexec sleep 600\n")
    hook.chmod(0o755)
    patch.setattr(Impatient, "reached", reached, raising=False)
    patch.setattr(commands.subprocess, "Popen", Impatient)
    return hook


def test_e36_a_hook_after_the_commit_that_does_not_end_takes_nothing_back(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hanging(repository, "post-commit", monkeypatch)
    (repository / "a.txt").write_text("changed\n")
    made = GitManager(repository).commit_changes("made", ["a.txt"])
    assert git(repository, "rev-parse", "HEAD") == made
    assert committed(repository) == ["a.txt"]
    assert git(repository, "status", "--porcelain") == ""
    assert f"commit {made} is made, and what follows it did not end well" in caplog.text


def test_e36_a_hook_before_the_commit_that_does_not_end_locks_nobody_out(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "a.txt").write_text("changed\n")
    with monkeypatch.context() as patched:
        hook = hanging(repository, "pre-commit", patched)
        with pytest.raises(GitOperationError, match="timed out"):
            GitManager(repository).commit_changes("never", ["a.txt"])
    assert git(repository, "status", "--porcelain") == " M a.txt"
    hook.unlink()
    GitManager(repository).commit_changes("made", ["a.txt"])


def test_e36_nothing_to_commit_is_an_error(repository: Path) -> None:
    manager = GitManager(repository)
    for call in (
        lambda: manager.commit_changes("nothing"),
        lambda: manager.commit_changes("nothing", ["a.txt"]),
        lambda: manager.commit_changes("nothing", add_all=True),
    ):
        with pytest.raises(GitOperationError, match="there is nothing to commit"):
            call()
    with pytest.raises(GitOperationError, match="names nothing"):
        manager.commit_changes("nothing", [])
    with pytest.raises(GitOperationError, match=r"takes a list of files: \['a\.txt'\]"):
        manager.commit_changes("a text", "a.txt")
    with pytest.raises(GitOperationError, match="not both"):
        manager.commit_changes("both", ["a.txt"], add_all=True)
    with pytest.raises(GitOperationError, match=r"nowhere\.txt"):
        manager.commit_changes("missing", ["nowhere.txt"])
    with pytest.raises(GitOperationError, match="null"):
        manager.commit_changes("no name", ["a\0b"])
    assert git(repository, "rev-list", "--count", "HEAD") == "1"


def refused_by_a_hook(repository: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho this is not allowed >&2\nexit 1\n")
    hook.chmod(0o755)
    return "this is not allowed"


def without_an_author(repository: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    git(repository, "config", "--unset", "user.name")
    git(repository, "config", "--unset", "user.email")
    git(repository, "config", "user.useConfigOnly", "true")
    monkeypatch.setenv("HOME", str(repository.parent))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(repository.parent))
    for name in [name for name in os.environ if name.startswith(("GIT_", "EMAIL"))]:
        monkeypatch.delenv(name)
    return "user.useConfigOnly|tell me who you are"


@pytest.mark.parametrize("spoil", [refused_by_a_hook, without_an_author])
def test_e36_where_no_commit_is_made_everything_stays_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, pytest.MonkeyPatch], str]
) -> None:
    (repository / "new.txt").write_text("new\n")
    (repository / "b.txt").write_text("changed\n")
    git(repository, "add", "b.txt")
    said = spoil(repository, monkeypatch)
    before = git(repository, "status", "--porcelain")
    for call in (
        lambda: GitManager(repository).commit_changes("refused", ["new.txt"]),
        lambda: GitManager(repository).commit_changes("refused", add_all=True),
    ):
        with pytest.raises(GitOperationError, match=said):
            call()
        assert git(repository, "status", "--porcelain") == before
    assert git(repository, "rev-list", "--count", "HEAD") == "1"


def test_e36_the_repository_is_ours_also_in_a_hook_of_another(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    (repository / "a.txt").write_text("changed\n")
    made = GitManager(repository).commit_changes("ours", ["a.txt"])
    monkeypatch.delenv("GIT_DIR")
    assert git(repository, "rev-parse", "HEAD") == made


# -- E37 ---------------------------------------------------------------------------------------------------


def test_e37_the_errors_have_one_root() -> None:
    assert issubclass(GitOperationError, AsyncCkptError)
