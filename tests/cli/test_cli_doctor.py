"""``doctor``: a line for everything that a training will need, and nothing left behind."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from asyncckpt import allowance
from asyncckpt.allowance import Allowance
from asyncckpt.cli import doctor_machine, doctor_store
from asyncckpt.storage import LocalStorage, bounded, stopped
from asyncckpt.storage.base import Storage
from asyncckpt.testing import files
from asyncckpt.worker.memory import Mapping

from .conftest import Document, Run, Saved, flip, train, tree

if TYPE_CHECKING:
    from asyncckpt.storage.files import Files
    from asyncckpt.testing.s3server import S3Server

MACHINE = ["memory", "memlock", "shared memory", "huge pages", "shm", "signals", "metrics", "extras"]


@pytest.fixture(autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where worker processes log, for this test alone."""
    folder = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(folder))
    return folder


def states(document: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in document["checks"]}


def sentence(document: dict[str, Any], name: str) -> str:
    (found,) = [check["sentence"] for check in document["checks"] if check["name"] == name]
    return str(found)


def test_a_folder_that_is_not_there_is_tried_in_every_way_and_left_as_it_was(
    document: Document, tmp_path: Path, runtime: Path
) -> None:
    found = document("doctor", tmp_path / "a" / "run")
    assert found["schema"] == 1
    assert found["ok"] is (set(states(found).values()) <= {"ok", "note"})
    names = list(states(found))
    assert names[: len(MACHINE)] == MACHINE
    assert {"store", "disk", "worker", "creates", "bandwidth", "direct io", "clock"} <= set(names)
    assert [states(found)[name] for name in ("store", "disk", "worker", "creates", "bandwidth", "clock")] == ["ok"] * 6
    assert not (tmp_path / "a").exists()
    assert list(runtime.iterdir()) == [], "the worker process has ended, and had nothing to say"


def test_for_people_it_is_a_line_each_and_without_a_root_there_is_no_store(run: Run) -> None:
    done = run("doctor")
    assert [line[9:24].strip() for line in done.stdout.splitlines()] == [*MACHINE, "worker"]
    assert done.exit_code == (1 if "problem " in done.stdout else 0)


def test_read_only_writes_nothing_anywhere(document: Document, saved: Saved, runtime: Path) -> None:
    before = tree(saved.root.parent)
    found = document("doctor", saved, "--read-only")
    assert (tree(saved.root.parent), list(runtime.iterdir())) == (before, [])
    assert {name for name in states(found) if sentence(found, name) == "not tried: --read-only"} == {
        "worker",
        "bandwidth",
        "clock",
    }
    assert "was not tried" in sentence(found, "creates")
    assert list(states(document("doctor", "--read-only")))[-1] == "worker"


def test_beside_a_run_nothing_of_it_changes(document: Document, saved: Saved) -> None:
    before = {path: seen for path, seen in tree(saved.root).items() if Path(path).is_file()}
    found = document("doctor", saved)
    assert "3 checkpoints, the latest of step 30" in sentence(found, "store")
    assert states(found)["room"] == "ok"
    assert {path: seen for path, seen in tree(saved.root).items() if Path(path).is_file()} == before
    assert not (saved.root / "user").exists()


def test_a_root_that_cannot_be_read_is_a_problem_and_the_status_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", "s3:/one-slash", "no-such-scheme://x"):
        done = run("doctor", root)
        assert done.exit_code == 1, root
        assert "problem  store" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_mount_that_hangs_is_a_problem_and_holds_up_nobody(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens a pipe that has no writer waits for one."""
    monkeypatch.setattr(doctor_store, "PATIENCE", 0.0)
    monkeypatch.setattr(bounded, "HURRY", 0.0)
    monkeypatch.setattr(stopped, "HELD", 0.0)
    os.mkfifo(tmp_path / "run.json")
    try:
        found = document("doctor", "--read-only", tmp_path)
    finally:
        os.close(os.open(tmp_path / "run.json", os.O_RDWR | os.O_NONBLOCK))  # who opens it in a thread here goes on
    assert not found["ok"]
    assert sentence(found, "store") == f"{tmp_path} has not answered within 0 s"


def test_a_disk_that_does_not_say_how_much_room_it_has_is_a_problem(
    document: Document, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def hang(storage: Storage) -> int | None:
        monkeypatch.setattr(bounded, "PATIENCE", 0.0)
        go.wait()
        return None

    monkeypatch.setattr(bounded, "LOOK", 0.01)
    monkeypatch.setattr(stopped, "HELD", 0.0)
    monkeypatch.setattr(doctor_store, "free", hang)
    try:
        found = document("doctor", "--read-only", saved)
    finally:
        go.set()
    assert states(found)["store"] == "ok"
    assert "free space has not gone on for" in sentence(found, "disk")
    assert "room" not in states(found)


def test_one_checkpoint_is_no_root(run: Run, saved: Saved) -> None:
    assert "leave out the @" in run("doctor", f"{saved}@10").output


# -- every fallback has its line -------------------------------------------------------------------------------


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is started where a test is about something else."""
    monkeypatch.setattr(doctor_store, "why_not", lambda storage: "it is not asked here")


def on(monkeypatch: pytest.MonkeyPatch, lacking: type[Files]) -> None:
    """Have roots lie on a file system that can less."""
    monkeypatch.setattr(doctor_store, "from_url", lambda root: LocalStorage(root, files=lacking()))


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(
    ("lacking", "name", "said"),
    [
        (files.WithoutDirect, "direct io", "writes go through the page cache"),
        (files.WithoutPreallocation, "preallocation", "a full disk is noticed late"),
        (files.WithoutDirectorySync, "directory sync", "a power loss may undo a finished put"),
        (files.WithoutLinks, "creates", "mode exclusive), but hard links are refused"),
        (files.WithoutAnything, "creates", "a crash may leave it empty"),
    ],
)
def test_what_a_file_system_lacks_is_a_note(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: type[Files], name: str, said: str
) -> None:
    on(monkeypatch, lacking)
    found = document("doctor", tmp_path / "run")
    assert (states(found)[name], said in sentence(found, name)) == ("note", True), sentence(found, name)
    assert "end with their process" in sentence(found, "worker")


@pytest.mark.usefixtures("no_worker")
def test_where_two_trainings_cannot_exclude_each_other_is_a_problem(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, files.WithoutExclusiveCreate)
    found = document("doctor", tmp_path / "run")
    assert (states(found)["creates"], found["ok"]) == ("problem", False)
    assert "take a root in another store" in sentence(found, "creates")


def test_no_worker_process_is_a_problem_that_says_why(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = document("doctor", tmp_path / "run")
    assert states(found)["worker"] == "problem"
    assert "ended with status 1" in sentence(found, "worker")


@pytest.mark.usefixtures("no_worker")
def test_a_checkpoint_that_does_not_fit_is_a_problem(
    document: Document, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "memory", lambda: Allowance(10, "the cgroup /small"))
    monkeypatch.setattr(allowance, "lockable", lambda: 1)
    found = document("doctor", saved)
    said = [(check["state"], check["sentence"]) for check in found["checks"] if check["name"] == "room"]
    assert [state for state, _ in said] == ["problem", "note"]
    assert "the cgroup /small has 10 left: raise its limit by" in said[0][1]
    assert "RLIMIT_MEMLOCK is 1" in said[1][1]
    assert states(found)["memlock"] == "note"


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(
    ("off", "state", "said"),
    [(0, "ok", "agree"), (60, "note", "60 s behind"), (-60, "note", "ahead of"), (4000, "problem", "refuse requests")],
)
def test_a_clock_that_is_off_is_told_by_how_much(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: int, state: str, said: str
) -> None:
    real = LocalStorage.stored_at

    async def shifted(storage: LocalStorage, key: str) -> float:
        return await real(storage, key) + off + 0.5

    monkeypatch.setattr(LocalStorage, "stored_at", shifted)
    found = document("doctor", tmp_path / "run")
    assert (states(found)["clock"], said in sentence(found, "clock")) == (state, True), sentence(found, "clock")


@pytest.mark.usefixtures("no_worker")
def test_bytes_that_come_back_as_others_are_a_problem(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalStorage.get

    async def turned(storage: LocalStorage, key: str, **asked: Any) -> memoryview:
        got = await real(storage, key, **asked)
        if key.startswith("user/probe-"):
            got[-1] ^= 1
        return got

    monkeypatch.setattr(LocalStorage, "get", turned)
    found = document("doctor", tmp_path / "run")
    assert "do not trust this store" in sentence(found, "bandwidth")
    assert not found["ok"]


@pytest.mark.usefixtures("no_worker")
def test_what_is_wrong_with_the_run_itself_is_told(run: Run, document: Document, saved: Saved) -> None:
    flip(saved.pack(2))
    run("verify", saved, "--note")
    found = document("doctor", saved, "--read-only")
    assert (states(found)["store"], sentence(found, "store").endswith("; 1 found damaged")) == ("note", True)
    flip(saved.record(1), 40)
    found = document("doctor", saved, "--read-only")
    assert (states(found)["store"], found["ok"]) == ("problem", False)
    assert sentence(found, "store") == f"a commit record is lost: asyncckpt verify {saved} tells more"


@pytest.mark.usefixtures("no_worker")
def test_a_network_file_system_and_a_full_disk_are_told(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_store, "network", lambda path: "nfs4")
    monkeypatch.setattr(doctor_store, "free", lambda storage: 0)
    found = document("doctor", tmp_path, "--read-only")
    assert states(found)["file system"] == "note"
    assert f"{tmp_path} lies on nfs4, a network file system" in sentence(found, "file system")
    assert (states(found)["disk"], sentence(found, "disk")) == ("problem", f"0 B free on the disk of {tmp_path}")


@pytest.mark.usefixtures("no_worker")
def test_a_store_that_does_not_answer_is_a_problem_and_nothing_is_written_there(
    document: Document, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_store, "PATIENCE", 0.0)
    before = tree(saved.root)
    found = document("doctor", saved)
    assert (states(found)["store"], sentence(found, "store")) == ("problem", f"{saved} has not answered within 0 s")
    assert "bandwidth" not in states(found)
    assert tree(saved.root) == before


# -- the process and its environment ---------------------------------------------------------------------------


def doctor(before: str) -> dict[str, Any]:
    """What the doctor says in a process that has done something `before`."""
    # What these tests are started from may ignore some: a shell's & does.
    code = "import signal\nfor name in ('INT', 'HUP', 'TERM', 'USR1', 'USR2'):\n"
    code += "    signal.signal(signal.Signals['SIG' + name], signal.SIG_DFL)\n"
    code += f"import sys; {before}; sys.argv = ['asyncckpt', 'doctor', '--read-only', '--json']\n"
    code += "import atexit; atexit.register(lambda: print(int('torch' in sys.modules), file=sys.stderr))\n"
    code += "from asyncckpt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "0\n", "torch was imported"
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    return found


def test_signals_that_are_blocked_are_a_problem_and_ignored_ones_a_note() -> None:
    blocked = doctor("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])")
    assert states(blocked)["signals"] == "problem"
    assert sentence(blocked, "signals").startswith("SIGTERM is blocked here")
    ignored = doctor("signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.signal(signal.SIGUSR1, signal.SIG_IGN)")
    assert states(ignored)["signals"] == "note"
    assert sentence(ignored, "signals").startswith("SIGUSR1, SIGHUP are ignored here")
    assert states(doctor("pass"))["signals"] == "ok"
    told = "import os; os.environ['ASYNCCKPT_HELD_SIGNALS'] = 'SIGUSR1'"
    held = f"{told}; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])"
    assert states(doctor(held))["signals"] == "ok", "a Preemption lets it in"


def test_what_the_machine_does_not_give_is_told(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(length: int) -> tuple[None, mmap.mmap]:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(allowance, "memory", lambda: None)
    monkeypatch.setattr(allowance, "lockable", lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20, free=64 << 20))
    monkeypatch.setattr(doctor_machine, "mapped", lambda length: (None, Mapping(mmap.mmap(-1, length), 0, length)))
    found = document("doctor", "--read-only")
    told = {name: (states(found)[name], sentence(found, name)) for name in MACHINE[:5]}
    assert (told["memory"][0], "give Budget(memory=...)" in told["memory"][1]) == ("note", True)
    assert (told["memlock"][0], "may be page-locked" in told["memlock"][1]) == ("ok", True)
    assert told["shared memory"][0] == "note"
    assert told["shared memory"][1].startswith("there is no memfd here: saves run in a thread")
    assert told["huge pages"][0] == "note"
    assert told["huge pages"][1].startswith("there are none for shared memory here")
    assert told["shm"][0] == "note"
    assert "has 64.0 MiB, and data loaders pass batches through it" in told["shm"][1]
    assert "docker run --shm-size=8g" in told["shm"][1]
    monkeypatch.setattr(doctor_machine, "mapped", refused)
    found = document("doctor", "--read-only")
    assert (states(found)["shared memory"], found["ok"]) == ("problem", False)
    assert "Cannot allocate memory" in sentence(found, "shared memory")
    assert states(found)["huge pages"] == "note"
    assert sentence(found, "huge pages").startswith("the kernel gives shared memory none ([Errno 12] Cannot allocate")


def test_a_metrics_port_that_is_taken_is_a_note(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("ASYNCCKPT_METRICS_PORT", str(port))
        found = document("doctor", "--read-only")
    assert states(found)["metrics"] == "note"
    assert f"127.0.0.1:{port} is not to be had" in sentence(found, "metrics")
    monkeypatch.setenv("ASYNCCKPT_METRICS_PORT", "many")
    assert "many is not a number" in sentence(document("doctor", "--read-only"), "metrics")
    monkeypatch.setenv("ASYNCCKPT_METRICS_PORT", "0")
    monkeypatch.setenv("ASYNCCKPT_METRICS_ADDR", "127.0.0.1")
    assert sentence(document("doctor", "--read-only"), "metrics").endswith("is free")


def test_metrics_that_are_reported_are_named_and_none_is_put_there(
    document: Document, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PORT", "ADDR"):
        monkeypatch.delenv(f"ASYNCCKPT_METRICS_{name}", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        gateway.setblocking(False)
        address = f"127.0.0.1:{gateway.getsockname()[1]}"
        monkeypatch.setenv("ASYNCCKPT_METRICS_TEXTFILE", str(tmp_path))
        monkeypatch.setenv("ASYNCCKPT_METRICS_PUSHGATEWAY", address)
        monkeypatch.setenv("ASYNCCKPT_METRICS_OTEL", "1")
        found = document("doctor", "--read-only")
        with pytest.raises(BlockingIOError):
            gateway.accept()
    assert states(found)["metrics"] == "ok"
    assert sentence(found, "metrics") == f"they go to {tmp_path}; they go to {address}; they go to OpenTelemetry"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("ASYNCCKPT_METRICS_TEXTFILE", str(tmp_path / "none"))
    found = document("doctor", "--read-only")
    assert states(found)["metrics"] == "note"
    assert sentence(found, "metrics").startswith(f"{tmp_path / 'none'} is no folder to write to")


def test_optional_libraries_that_are_missing_are_named(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("opentelemetry-api", "wandb", "zstandard"):
            raise metadata.PackageNotFoundError(name)
        return "1" if name in ("tensorboard", "matplotlib", "torchdata", "ijson", "omegaconf") else real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setenv("ASYNCCKPT_METRICS_OTEL", "1")
    found = document("doctor", "--read-only")
    assert states(found)["metrics"] == "note"
    assert "pip install 'asyncckpt[otel]'" in sentence(found, "metrics")
    assert states(found)["extras"] == "note"
    assert "not installed: wandb (wandb), zstd (zstandard); pip install" in sentence(found, "extras")


# -- object stores ---------------------------------------------------------------------------------------------


def test_a_bucket_is_measured_and_left_as_it_was(document: Document, bucket: str, s3: S3Server) -> None:
    found = document("doctor", bucket)
    assert [states(found)[name] for name in ("store", "creates", "bandwidth", "clock")] == ["ok"] * 4
    assert "0 checkpoints" in sentence(found, "store")
    assert s3.stored(bucket) == ([], [])


@pytest.mark.usefixtures("no_worker")
def test_beside_a_run_in_a_bucket_nothing_is_added(document: Document, bucket: str, s3: S3Server) -> None:
    train(bucket)
    before = s3.stored(bucket)
    assert "3 checkpoints, the latest of step 30" in sentence(document("doctor", bucket), "store")
    assert s3.stored(bucket) == before


@pytest.mark.usefixtures("no_worker")
def test_a_bucket_that_is_not_there_is_a_problem(document: Document, bucket: str) -> None:
    found = document("doctor", f"s3://no-such-bucket-{os.getpid()}/run")
    assert states(found)["store"] == "problem"
    assert "bucket" in sentence(found, "store")
    assert "bandwidth" not in states(found)


@pytest.mark.usefixtures("no_worker")
def test_a_store_that_ignores_conditions_is_a_note_that_says_what_that_means(
    document: Document, ignoring_bucket: str
) -> None:
    root = ignoring_bucket
    found = document("doctor", root)
    assert states(found)["creates"] == "note"
    assert "a second create succeeded" in sentence(found, "creates")
    assert "do not point two trainings at this root" in sentence(found, "creates")
    train(root)
    found = document("doctor", root, "--read-only")
    assert (states(found)["creates"], "its run file says so" in sentence(found, "creates")) == ("note", True)
