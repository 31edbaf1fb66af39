"""Prometheus, Alertmanager and Pushgateway: real ones on loopback, for any user.

Their programs are those that ``make test`` has put beside this interpreter, or the system's.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asyncckpt.testing.servers import HOST, PATIENCE, Server

assert sys.platform == "linux"  # so that type checkers for other systems leave this module out

PROGRAMS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool", "prometheus-pushgateway")

_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def installed(*names: str) -> bool:
    """Whether these programs are here."""
    return all(shutil.which(name, path=_PATH) for name in names)


def called(name: str, *arguments: object, said: str | None = None) -> subprocess.CompletedProcess[str]:
    """What a program has done, whose standard input is `said`."""
    command = [_program(name), *map(str, arguments)]
    return subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=PATIENCE)


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found is not None, f"{name} is not here: make test gets it"
    return found


class _Monitor(Server):
    """One of them, which answers with JSON."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = self._hold(1)

    def ask(self, path: str, **parameters: str) -> Any:
        """What it answers now."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        try:
            connection.request("GET", f"{path}?{urllib.parse.urlencode(parameters)}")
            reply = connection.getresponse()
            body = reply.read().decode()
            assert reply.status == 200, body
            return json.loads(body)
        finally:
            connection.close()

    def _until(self, holds: Callable[[], object], doing: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE} s: {what}")
            doing()
            time.sleep(0.05)


class PrometheusServer(_Monitor):
    """Prometheus with its data in `folder`; `targets` by job, `rules` files, and an Alertmanager's port if any."""

    health = "/-/ready"

    def __init__(
        self,
        folder: Path,
        targets: dict[str, Sequence[str]],
        *,
        rules: Sequence[Path] = (),
        alertmanager: int | None = None,
        interval: str = "250ms",
    ) -> None:
        super().__init__(folder)
        configuration: dict[str, Any] = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {"job_name": job, "honor_labels": True, "static_configs": [{"targets": list(there)}]}
                for job, there in targets.items()
            ],
        }
        if alertmanager is not None:
            there = [{"static_configs": [{"targets": [f"{HOST}:{alertmanager}"]}]}]
            configuration["alerting"] = {"alertmanagers": there}
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
        self.start()

    def _command(self) -> list[str]:
        return [
            _program("prometheus"),
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
        ]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values that it answers now."""
        found = self.ask("/api/v1/query", query=expression)["data"]
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    def wait_for(self, expression: str, value: float | None = None, doing: Callable[[], object] = lambda: None) -> None:
        """Return once it answers `value`, or anything if None; `doing` is done before each further look."""

        def holds() -> bool:
            found = [number for _, number in self.query(expression)]
            return bool(found) if value is None else found[:1] == [value]

        self._until(holds, doing, f"{expression} is {value}")


class AlertmanagerServer(_Monitor):
    """Alertmanager with the `configuration` of a file."""

    health = "/-/ready"

    def __init__(self, folder: Path, configuration: Path) -> None:
        super().__init__(folder)
        self._configuration = configuration
        self.start()

    def _command(self) -> list[str]:
        return [
            *(_program("env"), f"--chdir={sys.prefix}"),  # where the copy of make test has its templates
            _program("prometheus-alertmanager"),
            f"--config.file={self._configuration}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
            "--cluster.listen-address=",
        ]

    def active(self, name: str) -> list[dict[str, Any]]:
        """The alerts of that name that it has now."""
        found: list[dict[str, Any]] = self.ask("/api/v2/alerts", filter=f'alertname="{name}"')
        return found

    def wait_for(self, name: str, doing: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Return an alert of that name once it has one."""
        found: list[dict[str, Any]] = []

        def holds() -> bool:
            found[:] = self.active(name)  # by the next look it may be cleared
            return bool(found)

        self._until(holds, doing, f"{name} is raised")
        return found[0]

    def wait_for_none(self, name: str, doing: Callable[[], object] = lambda: None) -> None:
        """Return once it has no alert of that name any more."""
        self._until(lambda: not self.active(name), doing, f"{name} is cleared")


class PushgatewayServer(_Monitor):
    """Pushgateway, which forgets all when it is killed."""

    health = "/-/ready"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.start()

    def _command(self) -> list[str]:
        return [_program("prometheus-pushgateway"), f"--web.listen-address={HOST}:{self.port}"]
