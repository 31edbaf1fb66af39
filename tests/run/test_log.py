"""What the console shows is in the run's log (features B5, B6, B15, B16, B14)."""

from __future__ import annotations

import errno
import gzip
import inspect
import io
import os
import re
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asyncckpt import Run
from asyncckpt.errors import StorageDenied
from asyncckpt.run import log, log_file, run
from asyncckpt.run.console import Console
from asyncckpt.run.log import log_name
from asyncckpt.run.log_file import LogFile, compressed
from asyncckpt.storage import MemoryStorage

from .conftest import Place, Train

NOW = datetime(2024, 12, 9, 14, 30, 22)


def text_of(root: Path, begins: str = "training_") -> str:
    (path,) = (root / "logs").glob(f"{begins}*.log")
    return path.read_text(encoding="utf-8")


EVERYTHING = """
logger = logging.getLogger("of.the.user")
before = logging.StreamHandler()  # has a stream that was there before the run
quiet = logging.getLogger("quiet")
quiet.propagate = False
quiet.addHandler(before)
with Run.open("run") as run:
    assert run.log_path.name.startswith("training_")
    print("a print", end=" ")
    print("goes on: ä ✓ 日本")
    sys.stderr.write("to stderr\\n")
    sys.stderr.writelines(["line 1\\n", "line 2\\n"])
    logger.info("a record")
    logger.debug("not shown")
    quiet.warning("by a handler of before")
    warnings.warn("a warning")
    print("\\rprogress 10%\\rprogress 20%")
    try:
        raise KeyError("caught")
    except KeyError:
        logger.exception("it failed")
    import threading
    def fail():
        raise ValueError("in a thread")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
print("after the run")
"""


def test_b5_the_log_has_all_that_the_console_has_once(train: Train, tmp_path: Path) -> None:
    shown = train(EVERYTHING, env={"PYTHONIOENCODING": "utf-8"})
    log = text_of(tmp_path / "run")
    for line in (shown.stdout + shown.stderr).splitlines():
        if line != "after the run":
            assert line in log, line
    for words in (
        "a print goes on: ä ✓ 日本\n",
        "to stderr\n",
        "line 2\n",
        "INFO of.the.user: a record\n",
        "by a handler of before\n",
        "UserWarning: a warning",
        "KeyError: 'caught'\n",
        "ValueError: in a thread\n",
    ):
        assert log.count(words) == 1, words
    assert "not shown" not in log
    assert "after the run" not in log
    assert "a record" in shown.stderr  # nobody has configured logging, and it is shown all the same


def test_b5_the_exception_that_ends_the_training_is_in_the_log(train: Train, tmp_path: Path) -> None:
    ended = train("with Run.open('run'):\n    raise ZeroDivisionError('the end')", check=False)
    assert "ZeroDivisionError: the end" in ended.stderr
    assert text_of(tmp_path / "run").count("ZeroDivisionError: the end\n") == 1
    assert 'File "' in text_of(tmp_path / "run")


def test_b5_also_where_the_run_is_never_closed(train: Train, tmp_path: Path) -> None:
    train("Run.open('run')\nprint('working')\nraise ZeroDivisionError('the end')", check=False)
    log = text_of(tmp_path / "run")
    assert log.index("working\n") < log.index("ZeroDivisionError: the end\n")


def test_b5_why_a_preempted_training_left_is_in_the_log(train: Train, tmp_path: Path) -> None:
    ended = train("with Run.open('run'):\n    raise SystemExit(143)", check=False)
    assert ended.returncode == 143
    assert "the training leaves: 143\n" in text_of(tmp_path / "run")


FOREIGN = """
records = []
class Foreign(logging.Handler):
    def emit(self, record):
        records.append(record.getMessage())
foreign = Foreign()
to_file = logging.FileHandler("other.log")
strict = logging.StreamHandler()  # shows errors alone
strict.setLevel(logging.ERROR)
logging.basicConfig(level=logging.DEBUG, handlers=[foreign, to_file, strict])
root = logging.getLogger()
before = list(root.handlers), root.level
with Run.open("run"):
    assert root.handlers[:3] == [foreign, to_file, strict]
    assert root.level == logging.DEBUG
    logging.debug("once")
    print("printed")
assert (list(root.handlers), root.level) == before
assert records.count("once") == 1
assert "write" not in vars(sys.stdout) and "write" not in vars(sys.stderr)
"""


def test_b5_handlers_of_others_stay_and_what_they_get_is_in_the_log(train: Train, tmp_path: Path) -> None:
    shown = train(FOREIGN)
    assert "once" not in shown.stderr  # the user's handlers show nothing on the console
    log = text_of(tmp_path / "run")
    assert log.count("DEBUG root: once\n") == 1
    assert log.count("printed\n") == 1
    assert (tmp_path / "other.log").read_text().count("once\n") == 1


def test_b5_a_handler_that_is_made_later_writes_to_the_log_once(train: Train, tmp_path: Path) -> None:
    train(
        "with Run.open('run'):\n"
        "    logging.getLogger('late').addHandler(logging.StreamHandler(sys.stdout))\n"
        "    logging.getLogger('late').propagate = False\n"
        "    logging.getLogger('late').warning('said once')\n"
    )
    assert text_of(tmp_path / "run").count("said once\n") == 1


def test_b5_the_streams_are_the_same_and_tell_the_truth(train: Train) -> None:
    train(
        "streams = sys.stdout, sys.stderr\n"
        "told = [(s.isatty(), s.fileno(), s.encoding) for s in streams]\n"
        "with Run.open('run'):\n"
        "    assert (sys.stdout, sys.stderr) == streams\n"
        "    assert told == [(s.isatty(), s.fileno(), s.encoding) for s in streams]\n"
        "    assert logging.getLogger().level == logging.INFO\n"
        "assert logging.getLogger().level == logging.WARNING, 'as it was'\n"
        "class Gone:\n"
        "    encoding = 'utf-8'\n"
        "    def write(self, text):\n        raise BrokenPipeError\n"
        "    def flush(self):\n        pass\n"
        "sys.stdout = Gone()\n"
        "with Run.open('gone') as run:\n"
        "    try:\n        print('of nobody seen')\n"
        "    except BrokenPipeError:\n        path = run.log_path\n"
        "assert 'of nobody seen' in path.read_text()\n"
    )


def test_b5_two_runs_in_one_process_each_have_a_log_whatever_ends_first(train: Train, tmp_path: Path) -> None:
    train(
        "one, two = Run.open('one'), Run.open('two')\n"
        "print('both')\none.close()\nprint('two alone')\ntwo.close()\nprint('neither')\n"
        "assert 'write' not in vars(sys.stdout)\n"
    )
    one, two = text_of(tmp_path / "one"), text_of(tmp_path / "two")
    assert ("both" in one, "two alone" in one, "neither" in one) == (True, False, False)
    assert ("both" in two, "two alone" in two, "neither" in two) == (True, True, False)


def test_b5_a_console_that_is_gone_loses_nothing_in_the_log(train: Train, tmp_path: Path) -> None:
    program = (
        "with Run.open('run') as run:\n    print('first', flush=True)\n    sys.stdin.readline()\n"
        "    for number in range(20000):\n        print('line', number)\n"
    )
    script = tmp_path / "train.py"
    train("pass")
    script.write_text(f"import sys\nfrom asyncckpt import Run\n{program}")
    with subprocess.Popen(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as training:
        assert training.stdout is not None
        assert training.stdin is not None
        assert training.stdout.readline() == b"first\n"
        training.stdout.close()
        training.stdin.write(b"\n")
        training.stdin.close()
        assert training.wait(60) != 0  # as without a log: a broken pipe
        assert training.stderr is not None
        training.stderr.close()
    assert "BrokenPipeError" in text_of(tmp_path / "run")


def test_b5_child_processes_that_are_forked_print_into_the_log(train: Train, tmp_path: Path) -> None:
    train(
        "import threading\nwith Run.open('run', log_bytes=200) as run:\n"
        "    ready, go_on = os.pipe(), os.pipe()\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os.read(go_on[0], 1)\n        print('of the child')\n        os._exit(0)\n"
        "    for number in range(50):\n        print('fill', number)\n"
        "    os.write(go_on[1], b'x')\n    os.waitpid(child, 0)\n"
    )
    text = "".join(read(path) for path in (tmp_path / "run/logs").iterdir())
    assert text.count("of the child\n") == 1
    assert [line for line in text.splitlines() if line.startswith("fill")].count("fill 49") == 1


def read(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def test_b5_a_training_that_wants_no_log_has_none(folder: Place) -> None:
    run = folder.open(logs=False)
    assert run.log_path is None
    assert not any(key.startswith("logs/") for key in folder.names())


# -- B6: names ---------------------------------------------------------------------------------------------


def test_b6_each_start_that_goes_on_has_the_next_number(somewhere: Place) -> None:
    somewhere.open(logs=True).close()
    for _ in range(3):
        somewhere.open(mode="resume", logs=True).close()
    logs = [key.removeprefix("logs/") for key in somewhere.names() if key.startswith("logs/")]
    assert sum(re.fullmatch(r"training_\d{8}_\d{6}\.log", name) is not None for name in logs) == 1
    numbers = sorted(
        int(found[1]) for name in logs if (found := re.match(r"training_resume_(\d+)_\d{8}_\d{6}\.log$", name))
    )
    assert numbers == [1, 2, 3]


def test_b6_old_logs_stay_as_they_are(folder: Place) -> None:
    with folder.open(logs=True):
        print("of the first start")
    (first,) = (key for key in folder.names() if key.startswith("logs/"))
    before = folder.read(first)
    with folder.open(mode="resume", logs=True):
        print("of the second start")
    assert folder.read(first) == before
    assert b"of the first start" in (before or b"")


@pytest.mark.parametrize(
    ("names", "number"),
    [
        ([], 1),
        (["training_20240101_000000.log"], 1),
        (["training_resume_1_x.log", "training_resume_3_x.log"], 4),  # 2 was deleted
        ([f"training_resume_{n}_x.log" for n in range(1, 12)], 12),  # by number: 10 comes after 9
        (["training_resume_2_x.1.log.gz"], 3),
        (["training_resume_x_y.log", "other"], 1),
    ],
)
def test_b6_numbers_only_rise(names: list[str], number: int) -> None:
    assert log_name(names, NOW, resumed=True) == f"training_resume_{number}_20241209_143022.log"


def test_b6_two_starts_in_one_moment_have_a_log_each(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.open().close()
    with monkeypatch.context() as patched:
        patched.setattr(log.os, "listdir", lambda folder: [])  # what the second had seen before the first began
        patched.setattr(run, "datetime", Stopped)
        for number in range(2):
            with folder.open(mode="resume", logs=True):
                print("said by", number)
    logs = sorted(key for key in folder.names() if key.startswith("logs/"))
    assert logs == ["logs/training_resume_1_20241209_143022.log", "logs/training_resume_2_20241209_143023.log"]
    assert [f"said by {number}\n" in (folder.read(key) or b"").decode() for number, key in enumerate(logs)] == [
        True
    ] * 2


class Stopped(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return NOW.astimezone()


# -- B15: nothing is lost ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", ["os._exit(9)", "os.kill(os.getpid(), 9)", "import faulthandler; faulthandler._sigabrt()"]
)
def test_b15_a_crash_loses_no_line(train: Train, tmp_path: Path, end: str) -> None:
    train(f"Run.open('run')\nprint('the last line', end='')\n{end}", check=False)
    assert text_of(tmp_path / "run").endswith("the last line")


def test_b15_a_signal_handler_that_prints_does_not_hang(train: Train, tmp_path: Path) -> None:
    train(
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: sys.stderr.write('alarm\\n'))\n"
        "with Run.open('run'):\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\n"
        "    for number in range(3000):\n        sys.stdout.write(f'line {number}\\n')\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    log = text_of(tmp_path / "run")
    assert log.count("alarm") > 0
    assert all(f"line {number}" in log for number in range(3000))


def test_b15_threads_tear_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where the system takes a line in pieces."""
    real = os.write
    monkeypatch.setattr(log_file.os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    file = LogFile(tmp_path / "x.log", 1 << 30)
    threads = [
        threading.Thread(target=lambda n=n: [file.write(f"{n}" * 50 + "\n") for _ in range(200)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    lines = (tmp_path / "x.log").read_text().splitlines()
    assert len(lines) == 800
    assert {len(set(line)) for line in lines} == {1}


# -- B14: what cannot be written -----------------------------------------------------------------------------


def test_b14_a_full_disk_is_one_line_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = LogFile(tmp_path / "x.log", 1 << 30)
    real, is_full = os.write, True

    def write(descriptor: int, data: Any) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    file.write("before\n")
    monkeypatch.setattr(log_file.os, "write", write)
    for _ in range(100):
        file.write("0123456789\n")
    is_full = False
    file.write("after\n")
    file.close()
    assert (tmp_path / "x.log").read_text() == (
        "before\n[1100 bytes of output or more are missing here: No space left on device]\nafter\n"
    )
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    assert "No space left on device): training goes on without it" in caplog.text


def test_b14_on_a_really_full_disk_training_goes_on(train: Train, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    shown = train(
        "with Run.open('run') as run:\n"
        "    os.dup2(os.open('/dev/full', os.O_WRONLY), run._log._file._descriptor)\n"
        "    print('one')\n    print('two')\nprint('done')\n"
    )
    assert shown.stdout == "one\ntwo\ndone\n"
    assert shown.stderr.count("training goes on without it") == 1


def test_b14_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/logs").write_text("a file in the way")
    with Run.open(tmp_path / "run", mode="auto") as run:
        assert run.log_path is None
    assert "there is no log of this training" in caplog.text
    assert (tmp_path / "run/logs").read_text() == "a file in the way"


# -- B16: rotation -------------------------------------------------------------------------------------------


def test_b16_a_log_past_its_limit_goes_on_in_a_new_file(train: Train, tmp_path: Path) -> None:
    limit = 100_000
    train(
        f"with Run.open('run', log_bytes={limit}):\n"
        "    for number in range(20000):\n        print(f'line {number:06d} ' + 'x' * 20)\n"
    )
    files = {path.name: path for path in (tmp_path / "run/logs").iterdir()}
    (current,) = (name for name in files if name.endswith(".log"))
    stem = current.removesuffix(".log")
    parts = [f"{stem}.{number}.log.gz" for number in range(1, len(files))]
    assert set(files) == {current, *parts}
    assert len(parts) >= 5
    texts = [gzip.decompress(files[name].read_bytes()).decode() for name in parts] + [files[current].read_text()]
    assert all(limit <= len(text.encode()) < limit + 100 for text in texts[:-1])
    assert all(text.endswith("\n") for text in texts)
    lines = [line for text in texts for line in text.splitlines() if line.startswith("line")]
    assert lines == [f"line {number:06d} " + "x" * 20 for number in range(20000)]
    assert sum(files[name].stat().st_size for name in parts) < 0.3 * sum(map(len, texts[:-1]))


def test_b16_a_log_is_rotated_without_being_told_to() -> None:
    assert inspect.signature(Run.open).parameters["log_bytes"].default == 64 << 20


def test_b16_what_is_half_compressed_has_no_name_that_anybody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at that moment leaves the part as it was."""
    old, shown = tmp_path / "x.1.log", list[list[str]]()
    old.write_text("content")

    def half(source: Any, target: Any, length: int) -> None:
        target.write(b"cont")
        shown.append([path.name for path in tmp_path.iterdir() if not path.name.startswith(".")])
        raise KeyboardInterrupt

    monkeypatch.setattr(log_file.shutil, "copyfileobj", half)
    with pytest.raises(KeyboardInterrupt):
        compressed(old)
    assert shown == [["x.1.log"]]
    assert [path.name for path in tmp_path.iterdir()] == ["x.1.log"]
    assert old.read_text() == "content"


def test_b16_a_part_that_cannot_be_compressed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log_file.shutil, "copyfileobj", full)
    file = LogFile(tmp_path / "x.log", 10)
    file.write("0123456789\n")
    file.write("next\n")
    file.close()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "x.1.log": "0123456789\n",
        "x.log": "next\n",
    }
    assert "cannot be compressed (" in caplog.text


@pytest.mark.parametrize("what", ["rename", "create"])
def test_b16_where_no_new_file_is_to_be_had_the_old_one_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    file = LogFile(tmp_path / "x.log", 10)

    def refused(*arguments: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        if what == "rename":
            patched.setattr(Path, "rename", refused)
        else:
            patched.setattr(log_file, "_created", refused)
        for _ in range(10):
            file.write("0123456789\n")
    file.close()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.log": "0123456789\n" * 10}
    assert caplog.text.count("grows past its limit") == 4  # each time it is twice as large


def test_b16_a_line_is_never_cut(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "x.log", 4)
    for text in ("1234", "5678", "\n", "next\n"):
        file.write(text)
    file.close()
    assert gzip.decompress((tmp_path / "x.1.log.gz").read_bytes()) == b"12345678\n"


def test_b16_compressing_leaves_one_or_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "x.1.log"
    old.write_text("content")
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: os._exit(1) if self == old else None)
    child = os.fork()
    if child == 0:
        compressed(old)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1  # it died between the two
    assert gzip.decompress((tmp_path / "x.1.log.gz").read_bytes()) == b"content"
    assert old.read_text() == "content"


# -- behind a URL --------------------------------------------------------------------------------------------


def test_b5_behind_a_url_the_log_is_there_at_the_end(somewhere: Place) -> None:
    with somewhere.open(logs=True, log_bytes=1000) as run:
        local = run.log_path
        for number in range(100):
            print(f"line {number}: ä")
    keys = [key for key in somewhere.names() if key.startswith("logs/")]
    texts = {key: somewhere.read(key) or b"" for key in keys}
    text = b"".join(gzip.decompress(data) if key.endswith(".gz") else data for key, data in texts.items()).decode()
    assert all(f"line {number}: ä\n" in text for number in range(100))
    assert len(keys) >= 2
    assert local is not None
    assert str(local).startswith(somewhere.root) or not local.parent.exists()


def test_b5_behind_a_url_the_log_is_brought_while_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, put = threading.Event(), MemoryStorage.put

    async def noted(self: MemoryStorage, key: str, parts: Any, **named: Any) -> Any:
        found = await put(self, key, parts, **named)
        if key.startswith("logs/") and b"now" in b"".join(parts):
            arrived.set()
        return found

    monkeypatch.setattr(MemoryStorage, "put", noted)
    monkeypatch.setattr("asyncckpt.run.log._EVERY", 0.001)
    with Run.open(MemoryStorage("shipping")):
        print("now")
        assert arrived.wait(60)


def test_b5_a_store_that_refuses_leaves_the_log_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    put = MemoryStorage.put

    async def refused(self: MemoryStorage, key: str, parts: Any, **named: Any) -> Any:
        if key.startswith("logs/"):
            raise StorageDenied(13, "not yours")
        return await put(self, key, parts, **named)

    monkeypatch.setattr(MemoryStorage, "put", refused)
    with Run.open(MemoryStorage("refusing")) as run:
        print("kept")
        path = run.log_path
    assert path is not None
    assert "kept" in path.read_text()
    assert str(path.parent) in caplog.text
    assert str(path.parent) in capsys.readouterr().err
    path.unlink()
    path.parent.rmdir()


def test_what_cannot_be_listened_to_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Slotted:
        __slots__ = ()

        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            pass

    heard: list[str] = []
    monkeypatch.setattr(sys, "stdout", Slotted())
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    console = Console(heard.append)
    console.begin()
    sys.stderr.write("heard")
    print("not heard")
    console.end()
    assert "heard" in heard
    assert stream.getvalue().endswith("heard")
    assert "cannot be copied to a log" in caplog.text
    assert any("cannot be copied to a log" in text for text in heard)
