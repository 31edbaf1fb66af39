"""``watch``: checkpoints as they come and go, in real processes that are ended by Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from torch import nn

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.cli import select as selecting
from asyncckpt.cli import watch as watching_command
from asyncckpt.cli.watching import Watched
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .conftest import Run, Saved, flip, train, tree

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")


class Watch:
    """A watch that was started; leaving the context ends it as Ctrl-C does, and asks for status 0."""

    def __init__(self, *arguments: object, interval: float = 0.05) -> None:
        command = [sys.executable, "-m", "asyncckpt", *map(str, arguments), "--interval", str(interval)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate()
        if error == (None, None, None):
            assert (self.process.returncode, said) == (0, "")

    def line(self) -> str:
        """The next line, once it is there."""
        out: IO[str] | None = self.process.stdout
        assert out is not None
        late = threading.Timer(PATIENCE, self.process.kill)
        late.start()
        said = out.readline()
        late.cancel()
        assert said, f"it has ended, or said nothing for {PATIENCE:g} s"
        return said.rstrip("\n")

    def change(self, event: str) -> dict[str, Any]:
        """The next change of that kind; of a look others may come before it, and none is told twice."""
        others = list[Any]()
        while len(others) < 20:
            found: dict[str, Any] = json.loads(self.line())
            assert found["schema"] == 1
            if found["event"] == event:
                return found
            others.append(found["event"])
        raise AssertionError(f"no {event} among {others}")


class Training:
    """A model of a few numbers, whose best checkpoint and two newest stay."""

    def __init__(self, root: Path | str) -> None:
        keep = RetentionPolicy(last=2)
        self.ckpt = AsyncCheckpointer(root, model=nn.Linear(2, 2), executor="thread", keep=keep)
        self.ckpt.resume()

    def save(self, step: int) -> None:
        self.ckpt.save(step).wait()


def test_a_program_gets_a_line_for_each_change(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    with Watch("watch", root, "--json") as watch:
        first = watch.change("watching")
        assert (first["checkpoints"], first["latest"], first["incarnation"]) == (0, None, None)
        training = Training(root)
        opened = watch.change("opened")
        assert (opened["incarnation"], opened["closed"]) == (1, False)
        training.save(1)
        saved = watch.change("saved")
        assert (saved["checkpoint"]["id"], saved["checkpoint"]["step"]) == ("00000001", 1)
        assert saved["checkpoint"]["size"] > 0
        record = root / "commits" / "0000000002.json"  # behind the one that opened the run
        took = record.stat().st_mtime - json.loads(record.read_bytes())["created"] / 1e6
        assert saved["seconds"] == pytest.approx(max(0.0, took), abs=1e-3)
        run("pin", root)
        assert watch.change("changed")["checkpoint"]["pinned"] is True
        training.save(2)
        assert watch.change("saved")["checkpoint"]["step"] == 2
        training.save(3)
        training.save(4)
        removed = watch.change("removed")
        assert (removed["id"], removed["step"]) == ("00000002", 2)
        assert "no rule keeps it" in removed["reason"]
        training.ckpt.close()
        assert watch.change("closed")["closed"] is True
        with AsyncCheckpointer(root, model=nn.Linear(2, 2), executor="thread") as ckpt:
            ckpt.resume(which=3)
            assert watch.change("opened")["incarnation"] == 2
            assert watch.change("rolled_back")["latest"] == "00000003"


def test_what_is_there_at_first_is_one_line_and_for_people_it_is_words(run: Run, saved: Saved) -> None:
    before = tree(saved.root)
    with Watch("top", saved, "--json") as watch:
        first = watch.change("watching")
        assert (first["checkpoints"], first["latest"]["id"], first["closed"]) == (3, "00000003", True)
    assert tree(saved.root) == before
    record = saved.record(1)
    flip(record, 40)
    with Watch("watch", saved) as watch:
        assert watch.line().startswith(
            "watching  2 checkpoints, the latest 00000003 of step 30; closed by incarnation 1 (process"
        )
        assert watch.line().startswith(f"lost  the record in slot {int(record.stem)}: ")
        run("pin", f"{saved}@20")
        assert watch.line() == "changed  00000002 of step 20: best pinned"


def test_a_store_that_cannot_be_read_for_a_while_is_told_once_and_waited_for(saved: Saved) -> None:
    run_file, kept = saved.root / "run.json", (saved.root / "run.json").read_bytes()
    with Watch("watch", saved, "--json") as watch:
        watch.change("watching")
        draft = saved.root / "draft"
        draft.write_bytes(b"{}")
        draft.replace(run_file)
        assert "run.json" in watch.change("unreachable")["reason"]
        draft.write_bytes(kept)
        draft.replace(run_file)
        watch.change("reachable")


def test_a_root_that_cannot_be_read_at_first_ends_it(
    run: Run, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert run("watch", tmp_path / "file").exit_code == 4

    async def follow(watched: Watched, pause: float, show: object) -> None:
        """What would go on for ever."""

    monkeypatch.setattr(watching_command, "_follow", follow)
    assert "leave out the @" in run("watch", f"{saved}@10").output
    assert run("watch", saved, "--interval", "0").exit_code == 2


def test_that_a_store_is_away_is_told_once(saved: Saved) -> None:
    async def act() -> list[list[str]]:
        store = LocalStorage(saved.root)
        watched = Watched(Catalog(store))
        await watched.look()
        assert len(watched.took) == 3
        told = [watched.failed("it is away"), watched.failed("it is away still"), await watched.look()]
        told += [await watched.look(), watched.failed("it is away again")]
        await store.aclose()
        return [[change.event for change in changes] for changes in told]

    assert asyncio.run(act()) == [["unreachable"], [], ["reachable"], [], ["unreachable"]]


def test_that_a_record_is_lost_is_told_once(saved: Saved) -> None:
    flip(saved.record(1), 40)

    async def act() -> list[list[str]]:
        store = LocalStorage(saved.root)
        watched = Watched(Catalog(store))
        told = [await watched.look(), await watched.look()]
        await store.aclose()
        return [[change.event for change in changes] for changes in told]

    assert asyncio.run(act()) == [["watching", "lost"], []]


def test_a_folder_is_looked_at_more_often_than_a_store_over_a_network(
    run: Run, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = list[float]()

    async def follow(watched: Watched, pause: float, show: object) -> None:
        pauses.append(pause)

    monkeypatch.setattr(watching_command, "_follow", follow)
    run("watch", saved)
    run("watch", saved, "--interval", 3)
    monkeypatch.setattr(selecting, "from_url", lambda root: MemoryStorage("away"))
    run("watch", "s3://bucket/run")
    assert pauses == [1, 3, 15]


def test_a_bucket_is_watched_too(bucket: str) -> None:
    with Watch("watch", bucket, "--json", interval=0.2) as watch:
        assert watch.change("watching")["checkpoints"] == 0
        train(bucket)
        saved = watch.change("saved")
        assert saved["checkpoint"]["id"] == "00000001"
        assert saved["seconds"] >= 0
        assert watch.change("closed")["incarnation"] == 1


@contextmanager
def on_terminal(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    pty = pytest.importorskip("pty", reason="needs POSIX terminals", exc_type=ImportError)
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    environment = {**inherited, "TERM": "xterm", "COLUMNS": "120", "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncckpt", *command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def until(terminal: int, wanted: str, seen: bytes = b"") -> str:
    """What is on the terminal once `wanted` is, without colours."""
    deadline = time.monotonic() + PATIENCE
    while wanted not in (text := re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen.decode(errors="replace"))):
        left = deadline - time.monotonic()  # it is drawn again and again
        ready = select.select([terminal], [], [], left)[0] if left > 0 else []
        assert ready, f"no {wanted} came after: {text}"
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody has the other end open any more
            raise AssertionError(f"it ended with: {text}") from None
    return text


def test_on_a_terminal_it_is_a_table_that_changes(run: Run, saved: Saved) -> None:
    with on_terminal("watch", str(saved), "--interval", "0.05") as (process, terminal):
        drawn = until(terminal, "latest")
        assert "3 checkpoints" in drawn
        # Id, step, epoch, age, after, took, size, state, metrics.
        assert re.search(r"00000002 +20 +2 +\d+ \w+ +\d+ \w+ +\d+\.\d s +[\d.]+ \w+ +best +val_loss=0.25", drawn)
        run("tag", f"{saved}@20", "paper")
        until(terminal, "changed  00000002 of step 20: best tag:paper")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_help_is_that_of_watch(run: Run) -> None:
    assert "until Ctrl-C" in run("top", "--help").output


def test_what_is_known_is_not_read_again(saved: Saved) -> None:
    async def act() -> list[tuple[str, str]]:
        store = GatedStorage(LocalStorage(saved.root))
        watched = Watched(Catalog(store))
        await watched.look()
        assert len(watched.summaries) == 3
        before = len(store.calls)
        assert await watched.look() == []
        await store.aclose()
        return store.calls[before:]

    newest = max(path.name for path in (saved.root / "commits").iterdir())
    asked = [key for request, key in asyncio.run(act()) if request == "get"]
    assert [key for key in asked if key.startswith("commits/")] == [f"commits/{newest}"]
