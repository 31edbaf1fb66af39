"""boto3's transfers, with their defaults: one object, into memory of its own."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

from benchmarks.clients.memory_file import MemoryFile
from benchmarks.loop import Training
from benchmarks.resuming import torch_file

_boto3: Any = import_module("boto3")

_KEY = "state.pt"


class Resuming:
    """One object."""

    def __init__(self, training: Training, url: str, options: dict[str, str]) -> None:
        self._training = training
        self._bucket, prefix = url.removeprefix("s3://").split("/", 1)
        self._key = f"{prefix}/{_KEY}"
        self._client: Any = _boto3.client(
            "s3",
            endpoint_url=options["endpoint_url"],
            aws_access_key_id=options["key"],
            aws_secret_access_key=options["secret"],
            region_name="us-east-1",
        )

    def save(self) -> None:
        file = io.BytesIO()
        torch_file.write(self._training, file)
        file.seek(0)
        self._client.upload_fileobj(file, self._bucket, self._key)

    def read(self) -> None:
        size = self._client.head_object(Bucket=self._bucket, Key=self._key)["ContentLength"]
        memory = memoryview(bytearray(size))
        self._client.download_fileobj(self._bucket, self._key, MemoryFile(memory))
        torch_file.read(self._training, MemoryFile(memory))
