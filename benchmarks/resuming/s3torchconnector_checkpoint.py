"""s3torchconnector: its ``S3Checkpoint``, as its own documentation uses that."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from benchmarks.loop import Training
from benchmarks.resuming import torch_file

_connector: Any = import_module("s3torchconnector")


class Resuming:
    """One object. It takes credentials from the environment alone."""

    def __init__(self, training: Training, url: str, options: dict[str, str]) -> None:
        self._training, self._url = training, f"{url}/state.pt"
        os.environ |= {"AWS_ACCESS_KEY_ID": options["key"], "AWS_SECRET_ACCESS_KEY": options["secret"]}
        config = _connector.S3ClientConfig(force_path_style=True)
        self._checkpoint: Any = _connector.S3Checkpoint(
            "us-east-1", endpoint=options["endpoint_url"], s3client_config=config
        )

    def save(self) -> None:
        with self._checkpoint.writer(self._url) as writer:
            torch_file.write(self._training, writer)

    def read(self) -> None:
        with self._checkpoint.reader(self._url) as reader:
            torch_file.read(self._training, reader)
