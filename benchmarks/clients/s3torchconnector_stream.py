"""s3torchconnector: the streams of its client, with its defaults."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from asyncckpt.testing.s3server import KEY as ACCESS
from asyncckpt.testing.s3server import SECRET
from benchmarks.clients import Wait
from benchmarks.clients.place import REGION, Place
from benchmarks.clients.raw import KEY, Raw

_PIECE = 16 << 20
"""Written at a time; it copies each."""


class S3TorchConnector(Raw):
    """It takes credentials from the environment alone."""

    def __init__(self, place: Place, nbytes: int) -> None:
        super().__init__(place, nbytes)
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = ACCESS, SECRET
        client: Any = import_module("s3torchconnector._s3client")
        config = client.S3ClientConfig(force_path_style=True)
        self._client = client.S3Client(REGION, endpoint=place.endpoint, s3client_config=config)

    def open(self) -> None:
        list(self._client.list_objects(self.place.bucket))

    def begin(self, number: int) -> Wait:
        return self._put

    def _put(self) -> None:
        with self._client.put_object(self.place.bucket, KEY) as writer:
            for _, piece in self.pieces(_PIECE):
                writer.write(piece)

    def get(self) -> None:
        with self._client.get_object(self.place.bucket, KEY) as reader:
            filled = 0
            while got := reader.readinto(self.memory[filled:]):
                filled += got
