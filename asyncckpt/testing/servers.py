"""Servers: programs on loopback that tests start, kill, freeze and start again on the same data."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

PATIENCE = 60.0
"""Seconds that it may take to start."""

HOST = "127.0.0.1"
_CLOSE_WAIT = 8
"""As the kernel writes it."""

_DIES_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


class Server:
    """A program that serves HTTP and keeps its data in `folder`; also a context manager, which kills it."""

    health: ClassVar[str]
    """What to ask for, to see whether it answers."""
    healthy: ClassVar[int] = 200
    """With what it answers that."""
    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._held: HeldPorts | None = None
        self.port = 0

    def _command(self) -> list[str]:
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        """Where it serves."""
        return f"http://{HOST}:{self.port}"

    @property
    def process(self) -> int:
        """The process that serves."""
        assert self._process is not None, "it was killed"
        return self._process.pid

    def _hold(self, count: int) -> list[int]:
        """Ports that are its own from now on, also while it is killed."""
        self._held = HeldPorts(count)
        return self._held.numbers

    def start(self) -> None:
        """Start it on what data there is; returns once it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent(*self._command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(self._folder), **self.environment},
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"it did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status == self.healthy
        except OSError:
            return False
        finally:
            connection.close()

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does; connections stay, and nobody answers."""
        self._signal("SIGSTOP")

    def thaw(self) -> None:
        """Let it go on; returns once it has done what those asked of it who have hung up meanwhile."""
        self._signal("SIGCONT")
        deadline = time.monotonic() + PATIENCE
        while self._process is not None and _hung_up(self.port) and time.monotonic() < deadline:
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once; what it has not written is lost. Asked to end, it would take half a minute."""
        if self._process is not None:
            self._signal("SIGKILL")
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it for good, and give its ports back."""
        self.kill()
        if self._held is not None:
            self._held.close()

    def _signal(self, name: str) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.Signals[name])  # by name: Windows has none of them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _hung_up(port: int) -> bool:
    """Whether a connection to this port was closed by whoever asked, and not by the server yet."""
    with suppress(FileNotFoundError):  # not Linux
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, here, _, state, *_ = line.split()
            if int(here.rpartition(":")[2], 16) == port and int(state, 16) == _CLOSE_WAIT:
                return True
    return False


def dying_with_parent(*command: str) -> list[str]:
    """A command whose process does not outlive the one that starts it."""
    return [sys.executable, "-c", _DIES_WITH_PARENT, *command]


def program(package: str, name: str) -> str:
    """Where the package has put it."""
    files = importlib.metadata.files(package) or []
    return next(str(file.locate()) for file in files if file.name in (name, f"{name}.exe"))


class HeldPorts:
    """Ports of loopback that nobody else is given before they are closed; also a context manager.

    A port that is only known to have been free may be somebody else's before the program that is told of it listens
    there, or while that program is killed and started again. So each is bound by a socket that never listens: nobody
    who asks for any port gets it, and who asks for this one has it all the same if it sets ``SO_REUSEADDR``, as servers
    do. That is so on Linux; elsewhere they have been free.
    """

    def __init__(self, count: int) -> None:
        sockets = [socket.socket() for _ in range(count)]
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind((HOST, 0))
        self.numbers: list[int] = [each.getsockname()[1] for each in sockets]
        # Of a server that could not be made nobody has more than these: they are closed with it, and without a warning.
        self._closing = weakref.finalize(self, _close, [each.detach() for each in sockets])
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Give them back."""
        self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close(descriptors: list[int]) -> None:
    for each in descriptors:
        socket.close(each)
