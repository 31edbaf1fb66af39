"""Sources: who else than a signal tells a training that its machine is going to be taken away.

Metadata servers are asked over plain HTTP on the link-local address, never by way of a proxy, with time limits of a
second. What each answer means, and how long is left then, is each provider's own.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

TIMEOUT = 1.0
"""Seconds that one request may take."""

LINK_LOCAL = "http://169.254.169.254"


class Source(Protocol):
    """Asked again and again, by a thread of its own."""

    @property
    def name(self) -> str:
        """In one word, for logs and metrics."""
        ...

    @property
    def period(self) -> float:
        """Seconds between two looks."""
        ...

    def look(self, grace: float) -> float | None:
        """Seconds until the process is killed, `grace` where nobody knows; None as long as nobody says that it is.

        Raises what it likes: that is told, and the next look follows.
        """
        ...


def fetch(url: str, headers: Mapping[str, str], method: str = "GET") -> tuple[int, str]:
    """Status and text of an answer; raises `OSError` or `http.client.HTTPException`."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def _expect(status: int, url: str) -> None:
    if status != 200:
        raise OSError(f"{url} answered {status}")


def _until(moment: datetime) -> float:
    return moment.timestamp() - time.time()


class AwsSpot:
    """A spot instance of EC2, by IMDSv2: two minutes' notice, on a best-effort basis.

    In a container the metadata need a hop limit of 2. With `rebalance`, the recommendation that may come earlier is
    notice too, `REBALANCE` seconds; it often comes without anything following.
    """

    name = "aws"
    period = 5.0

    REBALANCE = 120.0
    _TOKEN_SECONDS = 21600

    def __init__(self, endpoint: str = LINK_LOCAL, *, rebalance: bool = False) -> None:
        self._latest = f"{endpoint.rstrip('/')}/latest"
        self._rebalance = rebalance
        self._token: str | None = None

    def look(self, grace: float) -> float | None:
        """See `Source.look`."""
        said = self._get("meta-data/spot/instance-action")
        if said is not None:
            action = json.loads(said)
            return _until(datetime.fromisoformat(action["time"]))
        if self._rebalance and self._get("meta-data/events/recommendations/rebalance") is not None:
            return self.REBALANCE
        return None

    def _get(self, path: str) -> str | None:
        url = f"{self._latest}/{path}"
        status, said = 401, ""
        for _ in range(2):  # a token may have expired
            status, said = fetch(url, {"X-aws-ec2-metadata-token": self._session()})
            if status != 401:
                break
            self._token = None
        if status == 404:
            return None
        _expect(status, url)
        return said

    def _session(self) -> str:
        if self._token is None:
            url = f"{self._latest}/api/token"
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(self._TOKEN_SECONDS)}
            status, self._token = fetch(url, headers, "PUT")
            _expect(status, url)
        return self._token


class GcpPreemption:
    """A spot or preemptible machine of Compute Engine: 30 seconds; and one whose host goes into maintenance: 60."""

    name = "gcp"
    period = 1.0

    SPOT = 30.0
    MAINTENANCE = 60.0

    def __init__(self, endpoint: str = "http://metadata.google.internal") -> None:
        self._instance = f"{endpoint.rstrip('/')}/computeMetadata/v1/instance"

    def look(self, grace: float) -> float | None:
        """See `Source.look`."""
        if self._get("preempted") == "TRUE":
            return self.SPOT
        return self.MAINTENANCE if self._get("maintenance-event") == "TERMINATE_ON_HOST_MAINTENANCE" else None

    def _get(self, key: str) -> str:
        url = f"{self._instance}/{key}"
        status, said = fetch(url, {"Metadata-Flavor": "Google"})
        _expect(status, url)
        return said.strip()


class AzureEvents:
    """A spot machine of Azure, by Scheduled Events: 30 seconds and more; those of other machines do not count."""

    name = "azure"
    period = 1.0

    _NOTICE = ("Preempt", "Terminate")

    def __init__(self, endpoint: str = LINK_LOCAL) -> None:
        self._metadata = f"{endpoint.rstrip('/')}/metadata"
        self._machine: str | None = None

    def look(self, grace: float) -> float | None:
        """See `Source.look`."""
        events: list[dict[str, Any]] = json.loads(self._get("scheduledevents?api-version=2020-07-01"))["Events"]
        due = [event for event in events if event.get("EventType") in self._NOTICE]
        if not due:
            return None
        if self._machine is None:
            self._machine = self._get("instance/compute/name?api-version=2021-02-01&format=text").strip()
        ours = [event for event in due if self._machine in event.get("Resources", [self._machine])]
        return min((_not_before(event, grace) for event in ours), default=None)

    def _get(self, path: str) -> str:
        url = f"{self._metadata}/{path}"
        status, said = fetch(url, {"Metadata": "true"})
        _expect(status, url)
        return said


def _not_before(event: Mapping[str, Any], grace: float) -> float:
    """Seconds until an event may begin; one that has begun says no time."""
    text = event.get("NotBefore")
    return _until(parsedate_to_datetime(text)) if text else grace


class SlurmTimeLimit:
    """The end of a Slurm job's time, `deadline` seconds before it comes. Raises `ValueError` where nobody says when."""

    name = "slurm"
    period = 1.0

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        try:
            self._end = float(environment["SLURM_JOB_END_TIME"])
        except (KeyError, ValueError):
            raise ValueError(
                'Preemption(watch="slurm"): SLURM_JOB_END_TIME does not say when this job ends (Slurm before 22.05, or '
                "no job); ask for a signal instead: #SBATCH --signal=USR1@120, with Preemption(deadline=120)"
            ) from None

    def look(self, grace: float) -> float | None:
        """See `Source.look`."""
        left = self._end - time.time()
        return left if left <= grace else None


class WatchedFile:
    """A file that somebody makes or touches; as it was when the training began, it says nothing."""

    name = "file"
    period = 0.25

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = self._touched()

    def look(self, grace: float) -> float | None:
        """See `Source.look`."""
        return grace if self._touched() not in (None, self._before) else None

    def _touched(self) -> int | None:
        try:
            return self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return None


WORDS = ("aws", "gcp", "azure", "slurm")


def source(given: str | Path | Source) -> Source:
    """What a user named, as something to ask."""
    if isinstance(given, Path):
        return WatchedFile(given)
    if isinstance(given, str):
        known: Mapping[str, type[AwsSpot | GcpPreemption | AzureEvents | SlurmTimeLimit]] = {
            "aws": AwsSpot,
            "gcp": GcpPreemption,
            "azure": AzureEvents,
            "slurm": SlurmTimeLimit,
        }
        return known[given]()
    return given
