"""Supervisor: runs one command as the main process of a container, and ends after the workers that it leaves.

It may be process 1, or a process whose end has the rest cleaned up, as in a step of Slurm::

    the command lives     signals are forwarded to it; what ends is reaped, orphans too
    it has ended          its workers are waited for, within a grace; nobody is killed

One thread takes all signals, one after the other, from one place: they are blocked, and nothing is a handler.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from asyncckpt.holding import holding

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

_SET_CHILD_SUBREAPER = 36
_SI_KERNEL = 0x80
_LONGEST = 1_000_000_000
"""More seconds than a system call may be too many for it."""

_FAULTS = {signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS}
_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}  # these stop this process as they stop the command
_NEVER = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}
_WATCHED = signal.valid_signals() - _FAULTS - _STOPS - _NEVER
_CHANGED = [signal.SIGPIPE, signal.SIGXFSZ]
"""What Python ignores, and the command must not inherit as ignored."""

_WORKER = [b"-m", b"asyncckpt.worker", b"--fd"]
"""How the command line of a worker process ends, but for a number; see `asyncckpt.worker.process.link`.

What comes before may be more than an interpreter, and one wait too many costs less than a snapshot.
"""


class Supervisor:
    """Runs one command. Made in a process that does nothing else, whose signals it keeps blocked."""

    def __init__(self) -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            say(f"orphans go to process 1: {os.strerror(ctypes.get_errno())}")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as it may be inherited, it takes the statuses away
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)

    def run(self, command: tuple[str, ...], hold: Collection[str] = ()) -> int:
        """Run `command` to its end; its status, or 128 and the number of the signal that killed it.

        Signals in `hold` are blocked in it. Raises `OSError` if it cannot be started.
        """
        environment, blocked = {**os.environ, **holding(hold)}, [signal.Signals[name] for name in hold]
        child = os.posix_spawnp(command[0], command, environment, setsigmask=blocked, setsigdef=_CHANGED)
        ended: dict[int, int] = {}
        while child not in ended:
            info = signal.sigwaitinfo(_WATCHED)
            if info.si_signo == signal.SIGCHLD:
                ended = _reaped()
            elif not _was_sent(info, child):
                with suppress(PermissionError):  # it has become another user
                    os.kill(child, info.si_signo)
        return ended[child] if ended[child] >= 0 else 128 - ended[child]

    def outlast(self, grace: int) -> None:
        """Return once no worker is left, after `grace` seconds, or when asked twice; says which, if there were any."""
        waited = left = _workers()
        if not left:
            return
        say(f"waiting up to {grace} s for {_named(left)}; from the second SIGTERM or SIGINT on no longer")
        deadline = time.monotonic() + min(grace, _LONGEST)
        ended: dict[int, int] = {}
        asked = 0
        while left:
            info = signal.sigtimedwait(_WATCHED, max(0.0, deadline - time.monotonic()))
            if info is None:
                say(f"{_named(left)} did not end in {grace} s, and what was not committed may be lost")
                return
            if info.si_signo == signal.SIGCHLD:
                ended |= _reaped()
                waited = waited | _workers()
                left = waited - ended.keys()
            elif info.si_signo in (signal.SIGTERM, signal.SIGINT):
                asked += 1
                name = signal.Signals(info.si_signo).name
                if asked > 1:
                    say(f"{name}, the second: {_named(left)} did not end, and what was not committed may be lost")
                    return
                say(f"{name}: still waiting for {_named(left)}; another one ends that")
        say("; ".join(f"worker process {pid} {_how(ended[pid])}" for pid in sorted(waited)))


def say(text: str) -> None:
    """One line for people; nobody who listens is no reason to fail."""
    with suppress(OSError):
        os.write(2, f"asyncckpt run: {text}\n".encode(errors="replace"))


def _reaped() -> dict[int, int]:
    """Reap what has ended: the status of each, below 0 the signal that killed it."""
    ended = {}
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def _was_sent(info: signal.struct_siginfo, child: int) -> bool:
    """Whether the command has it too: what a terminal sends, the kernel sends to each process of a group."""
    if info.si_code != _SI_KERNEL or os.getpgid(child) != os.getpgrp():
        return False
    # But that it hung up, which is followed by SIGCONT, it tells the leader of the session alone.
    return info.si_signo not in (signal.SIGHUP, signal.SIGCONT) or os.getsid(0) != os.getpid()


def _workers() -> set[int]:
    """The worker processes among the children of this one."""
    if not _has_children():
        return set()
    try:
        if Path("/proc/self").readlink() != Path(str(os.getpid())):
            raise OSError("/proc is that of another PID namespace")
        numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError as error:
        say(f"worker processes cannot be looked for, and are not waited for: {error}")
        return set()
    return {pid for pid in numbers if _command_line(pid)[-4:-1] == _WORKER and _is_left(pid)}


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _is_left(pid: int) -> bool:
    """Whether a process is a child of this one, or about to be.

    A trainer that is killed has no command line any more while its memory is freed, which may take seconds, and gives
    its children away only then.
    """
    parent = _parent(pid)
    return parent == os.getpid() or (parent != 0 and not _command_line(parent) and _is_left(parent))


def _command_line(pid: int) -> list[bytes]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    return []


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _named(pids: Collection[int]) -> str:
    return f"worker process{'es' if len(pids) > 1 else ''} {', '.join(map(str, sorted(pids)))}"


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with status {code}" if code else "has ended"
