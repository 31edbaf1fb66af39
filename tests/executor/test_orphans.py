"""Workers whose trainers are dead: who waits for them, for how long, and what they may not do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import asyncckpt
from asyncckpt import AsyncCheckpointer, ProcessConfig
from asyncckpt.errors import SaveFailed
from asyncckpt.events import Fallback, Listeners
from asyncckpt.testing.shared import SharedGates
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker import logs
from asyncckpt.worker.process.adopting import drained

from ..checkpointer.trainings import Recorder, Toy, elsewhere, steps, worker_of
from .conftest import Kill, Make, log_of, wait_for_workers
from .victim import Counter

pytestmark = pytest.mark.kills


def impatient(root: Path, recorder: Recorder) -> AsyncCheckpointer:
    """A training that starts without waiting for anybody."""
    limits = ProcessConfig(adopt_timeout=0)
    return AsyncCheckpointer(root, extra={"counter": Counter()}, executor=limits, listeners=[recorder])


def test_P5_an_orphan_that_is_waited_for_in_vain_is_fenced_and_its_loss_is_an_event(
    killed: Kill, store: SharedGates, recorder: Recorder
) -> None:
    root = Path(store.url)
    gate = store.hold("put", "data/*-step-2-*")
    killed("hanging", store.url, store.name, 1, 600)
    with impatient(root, recorder) as ckpt:
        assert ckpt.resume().step == 1
        (fallback,) = [event for event in recorder.of(Fallback) if event.feature == "adoption"]
        assert "did not end in 0 s: what it has not committed is lost" in fallback.reason
        gate.open()
        wait_for_workers(root)
        assert ckpt.save(7).wait().step == 7
        assert steps(ckpt) == [1, 7]
    assert "was taken by incarnation 2" in log_of(root)


def test_P5_an_orphan_is_found_through_every_path_that_leads_to_its_root(
    killed: Kill, store: SharedGates, recorder: Recorder, tmp_path: Path
) -> None:
    root, link = Path(store.url), tmp_path / "link"
    link.symlink_to(root.parent)
    gate = store.hold("put", "data/*-step-2-*")
    killed("hanging", store.url, store.name, 1, 600)
    with impatient(link / root.name, recorder) as ckpt:
        assert ckpt.resume().step == 1
        assert [event.feature for event in recorder.of(Fallback) if event.feature == "adoption"] == ["adoption"]
        gate.open()
        wait_for_workers(root)


def test_a_url_is_nothing_but_itself_wherever_a_process_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logs._prefix("s3://bucket/run")
    monkeypatch.chdir(tmp_path)
    assert logs._prefix("s3://bucket/run") == before


@pytest.mark.parametrize("request_", ["get", "probe"])
def test_P5_an_orphan_never_takes_a_run_that_somebody_else_has_begun(
    killed: Kill, store: SharedGates, recorder: Recorder, request_: str
) -> None:
    root = Path(store.url)
    gate = store.hold(request_, "run.json" if request_ == "get" else "")
    killed("hanging", store.url, store.name, 0, 600)
    gate.wait_reached()
    with impatient(root, recorder) as ckpt:
        assert ckpt.save(7).wait().step == 7
        gate.open()
        wait_for_workers(root)
        assert ckpt.save(8).wait().step == 8  # and was not fenced
        assert steps(ckpt) == [7, 8]


def test_P5_nobody_waits_for_the_worker_of_a_training_that_lives(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    first = make(root, model=Toy())
    first.save(1).wait()
    elsewhere(monkeypatch)
    os.kill(worker_of(first), signal.SIGSTOP)
    try:
        assert logs.orphans(str(root)) == []
        second = make(root, model=Toy(), executor="thread")
        assert second.resume().step == 1
        assert second.save(2).wait().step == 2
    finally:
        os.kill(worker_of(first), signal.SIGCONT)
    with pytest.raises(SaveFailed, match="was taken by incarnation 2"):
        first.save(3).wait()


def test_P5_whoever_was_heard_of_while_it_was_looked_for_orphans_is_none(tmp_path: Path, recorder: Recorder) -> None:
    root = str(tmp_path / "run")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    heard: list[tuple[int, int | None]] = []

    def family() -> list[tuple[int, int | None]]:
        known = heard.copy()
        heard.append((gone.pid, 1))  # right after a look that had begun without it
        return known

    with logs.begun(root) as log:
        log.path.write_text(json.dumps({"root": root, "trainer": gone.pid, "started": 1}) + "\n")
        assert logs.orphans(root) == [log.path]
        asyncio.run(drained(root, PATIENCE, Listeners([recorder]), family=family))
    assert recorder.of(Fallback) == []


def test_P5_an_orphan_gives_up_at_its_deadline_and_says_so(killed: Kill, store: SharedGates) -> None:
    with store.hold("put", "data/*"):
        (worker,) = killed("hanging", store.url, store.name, 0, 0.2)["said"]
        assert ended(worker)
    assert "after 0.2 s alone this worker ends with 1 jobs undone" in log_of(Path(store.url))
    with pytest.raises(asyncckpt.errors.CheckpointNotFoundError):
        asyncckpt.load(store)


def ended(process: int) -> bool:
    """Whether a process that is none of ours has ended, soon enough."""
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], PATIENCE)[0])
    finally:
        os.close(watched)


def test_a_log_says_what_became_of_an_orphan_and_a_silent_one_is_removed(
    killed: Kill, tmp_path: Path, make: Make
) -> None:
    ckpt = make(tmp_path / "other", model=Toy())
    ckpt.save(1).wait()
    worker_of(ckpt)
    name = f"{logs._prefix(str(tmp_path / 'other'))}*.log"
    assert len([*logs.folder().glob(name)]) == 1
    ckpt.close()
    assert len([*logs.folder().glob(name)]) == 0
    killed("staged", 1)
    wait_for_workers(tmp_path / "run")
    # None where it was quicker to commit than to notice.
    assert re.search(r"is gone: [01] snapshots to commit, 0 incomplete ones to drop", log_of(tmp_path / "run"))


def test_few_logs_are_kept(killed: Kill, tmp_path: Path) -> None:
    for _ in range(8):
        killed("staged", 1)
        wait_for_workers(tmp_path / "run")
    logs.orphans(str(tmp_path / "run"))
    assert 0 < len([*logs.folder().glob(f"{logs._prefix(str(tmp_path / 'run'))}*.log")]) <= 5


def test_a_folder_that_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder, make: Make
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "open"))
    ckpt = make(model=Toy())
    assert ckpt.save(1).wait().step == 1
    (fallback,) = [event for event in recorder.wait_for(Fallback) if event.feature == "executor"]
    assert "set ASYNCCKPT_RUNTIME_DIR" in fallback.reason


NAMESPACE = """
import sys
from pathlib import Path
from tests.executor.victim import Victim
Victim(Path(sys.argv[1]), lambda said: None).staged(3)
"""


@pytest.mark.root
def test_P5_a_worker_does_not_outlive_its_pid_namespace(tmp_path: Path) -> None:
    """The documented loss: where the trainer is process 1 of a container, the kernel kills everything with it."""
    run = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*run, "true"], check=False, capture_output=True).returncode:
        if os.environ.get("CI"):
            pytest.fail("cannot make a PID namespace in CI")
        pytest.skip("needs the right to make a PID namespace")
    root = tmp_path / "run"
    subprocess.run([*run, sys.executable, "-c", NAMESPACE, str(root)], check=False, timeout=PATIENCE)
    counter = Counter()
    with AsyncCheckpointer(root, extra={"counter": counter}, executor="thread") as ckpt:
        assert ckpt.resume().step in (2, 3)  # at most what was not committed is lost
    assert counter.is_whole()
