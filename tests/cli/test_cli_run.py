"""``asyncckpt run`` with real processes: what reaches the command, what its status is, and who is waited for."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import asyncckpt

if sys.platform != "linux":
    pytest.skip("supervises on Linux only", allow_module_level=True)

from asyncckpt.errors import StorageDenied
from asyncckpt.testing.shared import SharedGates
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker.__main__ import LOST

from ..executor.victim import Counter

RUN = [sys.executable, "-m", "asyncckpt", "run"]
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

TELLS = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with its supervisor, also where a test fails
out = int(sys.argv[1])
every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
if "apart" in sys.argv:
    os.setpgid(0, 0)
said = "ready"
while True:
    os.write(out, f"{said}\\n".encode())
    if said == "SIGTERM":
        break
    said = signal.Signals(signal.sigwaitinfo(every).si_signo).name
"""
"""A command that tells of every signal it gets, and ends at SIGTERM."""

LEAVES = """
import os, subprocess, sys
count, *command = sys.argv[1:]
for _ in range(int(count)):
    pid = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False).pid
    while not open(f"/proc/{pid}/cmdline").read():
        pass
    print(pid, flush=True)
os._exit(5)
"""
"""A command that leaves others behind, all alike, and says their numbers."""


@contextlib.contextmanager
def supervised(*arguments: object, within: Sequence[str] = (), **options: Any) -> Iterator[subprocess.Popen[str]]:
    """``asyncckpt run`` with these arguments, started; killed in the end, unless it has ended."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen([*within, *RUN, *map(str, arguments)], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def done(*arguments: object) -> tuple[int, str, str]:
    """The same to its end: its status and what it wrote."""
    with supervised(*arguments) as process:
        out, err = process.communicate()
        return process.returncode, out, err


def leaving(*command: object, count: int = 1) -> list[object]:
    """A command that leaves `command` behind."""
    return ["--", sys.executable, "-c", LEAVES, count, *command]


def number_from(process: subprocess.Popen[str]) -> int:
    """The number of what it has left behind."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def line_from(process: subprocess.Popen[str]) -> str:
    """The next line about workers, or nothing where there is none."""
    assert process.stderr is not None
    return next((line for line in process.stderr if line.startswith("asyncckpt run: ")), "")


def state_of(pid: int) -> str:
    """Its state, a letter; of one that is gone nothing."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def needs_namespaces(command: list[str]) -> None:
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        if os.environ.get("CI"):
            pytest.fail("cannot make a PID namespace in CI")
        pytest.skip("needs the right to make a PID namespace")


class Held:
    """A worker process that ends when the test lets it go; started by whoever inherits its descriptor."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fd = self._theirs.fileno()
        self.command = [sys.executable, "-P", "-m", "asyncckpt.worker", "--fd", self.fd]

    def release(self) -> None:
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def held() -> Iterator[Held]:
    worker = Held()
    yield worker
    worker.release()


other = held


HEARS = """
import os, signal, sys, torch
from asyncckpt import AsyncCheckpointer, Preempted, Preemption
from asyncckpt.storage import MemoryStorage
os.kill(os.getpid(), signal.SIGUSR1)
assert signal.sigpending() == {signal.SIGUSR1}
try:
    with AsyncCheckpointer(MemoryStorage("held"), model=torch.nn.Linear(2, 2), preemption=Preemption()) as ckpt:
        assert not signal.sigpending()
        ckpt.step(1)
except Preempted as left:
    print(left)
"""
"""A training that is told before it can hear it."""


# -- the command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
)
def test_the_status_is_that_of_the_command(script: str, status: int) -> None:
    assert done("--", "sh", "-c", script) == (status, "", "")


def test_a_notice_that_comes_early_waits_until_it_can_be_heard() -> None:
    status, said, wrong = done("--hold", "SIGUSR1", "--", sys.executable, "-c", HEARS)
    assert status == 0, wrong
    assert said.startswith("preempted (SIGUSR1) after step 1; step 1 is saved")


def test_what_is_not_held_kills_as_it_ever_did() -> None:
    script = "kill -USR1 $$; echo alive"
    assert done("--hold", "SIGUSR2", "--", "sh", "-c", script)[:2] == (128 + signal.SIGUSR1, "")
    assert done("--hold", "SIGUSR1", "--", "sh", "-c", script)[:2] == (0, "alive\n")
    assert done("--hold", "SIGTERM", "--", "sh", "-c", script)[0] == 2


def test_arguments_reach_the_command_as_they_are() -> None:
    for dashes in ([], ["--"]):
        assert done(*dashes, "echo", "-h", "--grace", "--", "*") == (0, "-h --grace -- *\n", "")


def test_why_there_was_nothing_to_run_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("true\n")
    status, _, said = done("--", "no-such-command", "-x")
    assert (status, said) == (127, "asyncckpt run: no-such-command: No such file or directory\n")
    status, _, said = done("--", tmp_path / "text")
    assert (status, said) == (126, f"asyncckpt run: {tmp_path}/text: Permission denied\n")
    (tmp_path / "text").chmod(0o755)
    status, _, said = done("--", tmp_path / "text")
    assert (status, said) == (126, f"asyncckpt run: {tmp_path}/text: Exec format error\n")
    for nothing in ([], ["--"], ["--grace", "1", "--"], ["--grace", "-1", "true"], ["--no-such-option", "true"]):
        assert done(*nothing)[0] == 2


@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_what_was_done_to_signals_before_reaches_neither_it_nor_the_command(how: str) -> None:
    act = {
        "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD})",
        "ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    }[how]
    code = f"import os, signal, sys; {act}; os.execv(sys.argv[1], sys.argv[1:])"
    script = "grep -E '^Sig(Blk|Ign):' /proc/self/status; exit 3"
    command = [sys.executable, "-c", code, *RUN, "--", "sh", "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (3, "")
    blocked, ignored = (int(line.split()[1], 16) for line in found.stdout.splitlines())
    assert blocked == 0
    python_ignores = {signal.SIGPIPE, signal.SIGXFSZ}
    assert not [number for number in {signal.SIGCHLD, *python_ignores} if ignored >> (number - 1) & 1]


FORWARDED = "HUP INT QUIT USR1 USR2 ALRM CONT WINCH IO PWR RTMIN RTMAX TERM"


@pytest.mark.parametrize("main", [False, pytest.param(True, marks=pytest.mark.root)])
def test_signals_are_forwarded(main: bool) -> None:
    """Also as process 1, which the kernel spares what it would ignore or die of."""
    if main:
        needs_namespaces(NAMESPACE)
    reading, writing = os.pipe()
    command = ["--", sys.executable, "-c", TELLS, writing]
    told = supervised(*command, pass_fds=[writing], within=NAMESPACE if main else [])
    with open(reading) as lines, told as process:
        os.close(writing)
        assert lines.readline() == "ready\n"
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()) if main else process.pid
        for name in FORWARDED.split():
            os.kill(pid, signal.Signals[f"SIG{name}"])
            assert lines.readline() == f"SIG{name}\n"
        assert process.communicate() == ("", "")
        assert process.returncode == 0


def test_orphans_that_end_are_reaped_while_the_command_runs() -> None:
    """All of them, although one SIGCHLD may stand for several."""
    script = '"$@"; exec sleep 1000'
    leaves = [sys.executable, "-c", LEAVES, 3, "cat"]
    with supervised("--", "sh", "-c", script, "sh", *leaves, stdin=subprocess.PIPE) as process:
        orphans = [number_from(process) for _ in range(3)]
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert process.stdin is not None
        process.stdin.close()
        for pid in orphans:
            wait_until(lambda pid=pid: state_of(pid) == "Z")
        process.send_signal(signal.SIGCONT)
        for pid in orphans:
            wait_until(lambda pid=pid: not state_of(pid))
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143


def test_it_imports_nothing_that_takes_time() -> None:
    heavy = "{'torch', 'numpy', 'asyncio', 'subprocess', 'rich', 'asyncckpt.checkpoints.catalog', 'asyncckpt.worker'}"
    code = (
        f"import sys, atexit; atexit.register(lambda: print(sorted({heavy} & set(sys.modules)), file=sys.stderr));"
        "sys.argv = ['asyncckpt', 'run', 'sh', '-c', 'exit 6']; from asyncckpt.cli import main; main()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (6, "[]\n")


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_elsewhere_the_command_runs_and_nobody_is_waited_for(system: str) -> None:
    for command, status in ((["sh", "-c", "exit 6"], 6), (["no-such-command"], 127), (["/"], 126)):
        code = (
            f"import sys, click, subprocess; sys.platform = {system!r}; sys.argv = ['asyncckpt', 'run', *{command}];"
            "from asyncckpt.cli import main; main()"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert found.returncode == status
        first, *more = found.stderr.splitlines()
        assert first == f"asyncckpt run: worker processes are not waited for on {system}"
        assert [line.split(": ")[1] for line in more] == ([] if status == 6 else command)


# -- terminals ---------------------------------------------------------------------------------------------


class Terminal:
    """``asyncckpt run`` at the head of a session on a terminal of its own, with a command that tells its signals."""

    def __init__(self, *arguments: str) -> None:
        ours, theirs = os.openpty()
        self.keys = open(ours, "wb", buffering=0)  # noqa: SIM115
        reading, writing = os.pipe()
        self.told = open(reading)  # noqa: SIM115
        takes = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", takes, *RUN, "--", sys.executable, "-c", TELLS, str(writing), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        os.close(theirs)
        assert self.told.readline() == "ready\n"

    def rest(self) -> list[str]:
        """End it: what the command was told until then."""
        self.process.send_signal(signal.SIGTERM)  # which has a higher number than others here: they come before it
        return self.told.read().split()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.told.close()
        self.keys.close()


@pytest.mark.parametrize("where", ["together", "apart"])
def test_a_key_reaches_the_command_exactly_once(where: str) -> None:
    """The terminal sends it to both, unless the command has a process group of its own."""
    with contextlib.closing(Terminal(where)) as terminal:
        for key, name in (b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT"):
            for _ in range(10):
                terminal.keys.write(key)
                assert terminal.told.readline() == f"{name}\n"
        assert terminal.rest() == ["SIGTERM"]
        assert terminal.process.wait() == 0


def test_a_terminal_that_hangs_up_reaches_the_command() -> None:
    """The kernel tells only the leader of the session, which is not the command."""
    with contextlib.closing(Terminal()) as terminal:
        terminal.keys.close()
        assert terminal.told.readline() == "SIGHUP\n"
        assert terminal.rest() in (["SIGCONT", "SIGTERM"], ["SIGTERM"])
        assert terminal.process.wait() == 0


# -- workers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [600, 10**12])
def test_a_worker_is_waited_for(held: Held, grace: int) -> None:
    arguments = [] if grace == 600 else ["--grace", grace]
    with supervised(*arguments, *leaving(*held.command), pass_fds=[held.fd]) as process:
        pid = number_from(process)
        assert line_from(process) == (
            f"asyncckpt run: waiting up to {grace} s for worker process {pid}; "
            "from the second SIGTERM or SIGINT on no longer\n"
        )
        held.release()
        assert process.communicate() == ("", f"asyncckpt run: worker process {pid} has ended\n")
        assert process.returncode == 5


def test_how_several_workers_end_is_told(held: Held) -> None:
    with supervised(*leaving(*held.command, count=2), pass_fds=[held.fd]) as process:
        first, second = sorted([number_from(process), number_from(process)])
        assert f" for worker processes {first}, {second};" in line_from(process)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not state_of(first))
        held.release()
        found = line_from(process)
        process.communicate()
        assert found == (
            f"asyncckpt run: worker process {first} was killed by signal 9; worker process {second} has ended\n"
        )
        assert process.returncode == 5


@pytest.mark.parametrize("environment", [False, True])
def test_a_worker_that_does_not_end_in_the_grace_is_named_and_not_killed(
    held: Held, environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment:
        monkeypatch.setenv("ASYNCCKPT_RUN_GRACE", "1")
    grace = [] if environment else ["--grace", "1"]
    with supervised(*grace, *leaving(*held.command), pass_fds=[held.fd]) as process:
        pid = number_from(process)
        try:
            os.kill(pid, signal.SIGSTOP)
            _, said = process.communicate()
            assert said.splitlines()[1:] == [
                f"asyncckpt run: worker process {pid} did not end in 1 s, and what was not committed may be lost"
            ]
            assert process.returncode == 5
            assert state_of(pid) == "T"
        finally:
            os.kill(pid, signal.SIGKILL)


def test_the_second_request_ends_the_waiting(held: Held) -> None:
    with supervised(*leaving(*held.command), pass_fds=[held.fd]) as process:
        pid = number_from(process)
        assert line_from(process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert line_from(process) == (
            f"asyncckpt run: SIGTERM: still waiting for worker process {pid}; another one ends that\n"
        )
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == (
            f"asyncckpt run: SIGINT, the second: worker process {pid} did not end, "
            "and what was not committed may be lost\n"
        )
        assert process.returncode == 5
        os.kill(pid, 0)


@pytest.mark.parametrize(
    "orphan",
    [["cat"], ["sh", "-c", "cat; true", "-m", "asyncckpt.worker"], ["sh", "-c", "cat; : -m asyncckpt.worker --fd 3"]],
)
def test_other_orphans_are_not_waited_for(orphan: list[str]) -> None:
    reading, writing = os.pipe()
    try:
        with supervised(*leaving(*orphan), stdin=reading) as process:
            pid = number_from(process)
            assert process.communicate() == ("", "")
            assert process.returncode == 5
            os.kill(pid, 0)
    finally:
        os.close(reading)
        os.close(writing)


def test_who_reads_no_messages_does_not_change_the_status(held: Held) -> None:
    with supervised(*leaving(*held.command), pass_fds=[held.fd]) as process:
        assert process.stderr is not None
        process.stderr.close()
        number_from(process)
        held.release()
        assert process.wait() == 5


TRAINER = """
import ctypes, os, subprocess, sys, threading
exit_, end, worker = sys.argv[1:]
command = [sys.executable, "-P", "-m", "asyncckpt.worker", "--fd", worker]
nothing = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
print(os.getpid(), subprocess.Popen(command, pass_fds=[int(worker)], **nothing).pid, flush=True)
threading.Thread(target=lambda: (os.read(int(end), 1), os._exit(0))).start()
if int(exit_):
    ctypes.CDLL(None).syscall(int(exit_), 0)
"""
"""A trainer that lives until the test says otherwise, and has a worker.

Given the number of a system call, its main thread is dead meanwhile, as one that is killed is for a while.
"""

ENDS_BEFORE_THEM = """
import json, os, subprocess, sys
for command in json.loads(sys.argv[1]):
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, close_fds=False)
    os.write(1, trainer.stdout.readline())
    while int(command[3]) and open(f"/proc/{trainer.pid}/cmdline").read():
        pass
os._exit(5)
"""


class Trainer:
    """A stand-in for a trainer, which has a worker process and ends when the test says so."""

    EXIT = {"x86_64": 60, "aarch64": 93}.get(platform.machine(), 0)

    def __init__(self, worker: Held, exit_: int = 0) -> None:
        reading, writing = os.pipe()
        self._theirs, self._ours = open(reading), open(writing, "w")  # noqa: SIM115
        self.fds = [reading, worker.fd]
        self.command = [sys.executable, "-c", TRAINER, str(exit_), str(reading), str(worker.fd)]

    def close(self) -> None:
        """End it."""
        self._ours.close()
        self._theirs.close()


@contextlib.contextmanager
def left_by(*trainers: Trainer) -> Iterator[tuple[subprocess.Popen[str], list[list[int]]]]:
    """``asyncckpt run`` with a command that ends before `trainers`, and the numbers of each of them and its worker."""
    with contextlib.ExitStack() as stack:
        for trainer in trainers:
            stack.callback(trainer.close)
        command = [sys.executable, "-c", ENDS_BEFORE_THEM, json.dumps([trainer.command for trainer in trainers])]
        fds = [fd for trainer in trainers for fd in trainer.fds]
        process = stack.enter_context(supervised("--", *command, pass_fds=fds))
        assert process.stdout is not None
        yield process, [[int(number) for number in process.stdout.readline().split()] for _ in trainers]


def test_the_worker_of_a_trainer_that_lives_on_is_not_waited_for(held: Held) -> None:
    with left_by(Trainer(held)) as (process, [[trainer, worker]]):
        assert process.communicate() == ("", "")
        assert process.returncode == 5
        assert state_of(trainer)
        assert state_of(worker)


needs_exit = pytest.mark.skipif(not Trainer.EXIT, reason="the number of a system call is not known here")


@needs_exit
@pytest.mark.parametrize("first", ["trainer", "worker"])
def test_the_worker_of_a_trainer_that_is_still_dying_is_waited_for(held: Held, first: str) -> None:
    with left_by(dying := Trainer(held, Trainer.EXIT)) as (process, [[_, worker]]):
        assert f" for worker process {worker};" in line_from(process)
        ends = [dying.close, held.release]
        for end in ends if first == "trainer" else reversed(ends):
            end()
        assert process.communicate() == ("", f"asyncckpt run: worker process {worker} has ended\n")
        assert process.returncode == 5


@needs_exit
def test_the_worker_of_a_trainer_that_dies_meanwhile_is_waited_for_too(held: Held, other: Held) -> None:
    dying, living = Trainer(held, Trainer.EXIT), Trainer(other)
    with left_by(dying, living) as (process, [[_, first], [trainer, second]]):
        assert f" for worker process {first};" in line_from(process)
        living.close()
        wait_until(lambda: not state_of(trainer))
        held.release()
        dying.close()
        wait_until(lambda: not state_of(first))
        other.release()
        told = "; ".join(f"worker process {worker} has ended" for worker in sorted([first, second]))
        assert process.communicate() == ("", f"asyncckpt run: {told}\n")
        assert process.returncode == 5


@pytest.mark.root
@pytest.mark.parametrize("leaves", ["", "sleep 1000 >/dev/null 2>&1 & "])
def test_where_nobody_can_be_looked_for_that_is_said(leaves: str) -> None:
    """In a PID namespace with the /proc of another; of interest where there is somebody to look for."""
    needs_namespaces(apart := ["unshare", "--pid", "--fork", "--kill-child"])
    command = [*apart, *RUN, "--", "sh", "-c", f"{leaves}exit 5"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 5
    said = (
        "asyncckpt run: worker processes cannot be looked for, and are not waited for: "
        "/proc is that of another PID namespace\n"
    )
    assert found.stderr == (said if leaves else "")


# -- a training --------------------------------------------------------------------------------------------

TRAINING = """
import sys
from pathlib import Path
from tests.executor.victim import Victim
root, gates = sys.argv[1:]
Victim(Path(root), lambda said: None).hanging(root, gates, 1, 600)
"""
"""Its second snapshot is staged when it is killed; what its worker puts then is held by the test."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedGates]:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    shared = SharedGates(tmp_path / "store")
    yield shared
    shared.close()


@pytest.mark.kills
@pytest.mark.parametrize("main", [False, pytest.param(True, marks=pytest.mark.root)])
def test_P5_what_was_staged_is_committed_before_the_container_ends(store: SharedGates, main: bool) -> None:
    if main:
        needs_namespaces(NAMESPACE)
    gate = store.hold("put", "data/*-step-2-*")
    command = [*(NAMESPACE if main else []), *RUN, "--", sys.executable, "-c", TRAINING, store.url, store.name]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, gate:
        assert " for worker process " in line_from(process)
        gate.wait_reached()
        assert asyncckpt.load(store.url).info.step == 1
        gate.open()
        assert line_from(process).endswith(" has ended\n")
        assert process.wait() == 137
    loaded = asyncckpt.load(store.url)
    counter = Counter()
    counter.load_state_dict(loaded.state["extra"]["counter"])
    assert (loaded.info.step, counter.step, counter.is_whole()) == (2, 2, True)


@pytest.mark.kills
def test_a_worker_that_could_not_commit_what_was_staged_says_so_by_its_status(store: SharedGates) -> None:
    gate = store.hold("put", "data/*-step-2-*")
    command = [*RUN, "--", sys.executable, "-c", TRAINING, store.url, store.name]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, gate:
        assert " for worker process " in line_from(process)
        gate.wait_reached()
        store.fail("put", "data/*-step-2-*", lambda: StorageDenied(28, "No space left on device"))
        gate.open()
        assert line_from(process).endswith(f" ended with status {LOST}\n")
        assert process.wait() == 137
    assert asyncckpt.load(store.url).info.step == 1
