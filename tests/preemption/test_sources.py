"""Who else gives notice, each asked as its provider documents it, of a metadata server on loopback."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from asyncckpt import Preempted, Preemption
from asyncckpt.errors import AsyncCkptError
from asyncckpt.events import Fallback, Listeners, PreemptionNoticed
from asyncckpt.preemption import sources
from asyncckpt.preemption.notice import Notices
from asyncckpt.preemption.sources import (
    AwsSpot,
    AzureEvents,
    GcpPreemption,
    SlurmTimeLimit,
    Source,
    WatchedFile,
    source,
)
from asyncckpt.preemption.watching import Watching
from asyncckpt.testing.slow import PATIENCE

from ..checkpointer.trainings import Recorder, Toy
from .conftest import Make

GRACE = 17.0

Answer = tuple[int, str]


class Metadata:
    """A metadata server that answers as it is told; `requests` are the method, path and headers of each."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answers: dict[str, Answer | Callable[[dict[str, str]], Answer]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.command, self.path, headers))
                answer = outer.answers.get(self.path, (404, ""))
                status, text = answer(headers) if callable(answer) else answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PUT = _answer

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    monkeypatch.setattr(sources, "TIMEOUT", PATIENCE)  # a busy machine may be slower than any cloud
    server = Metadata()
    yield server
    server.close()


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


# -- AWS -------------------------------------------------------------------------------------------------------

TOKEN = "/latest/api/token"  # noqa: S105 -- a path
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


def _with_token(token: str, answer: Answer) -> Callable[[dict[str, str]], Answer]:
    return lambda headers: answer if headers.get("x-aws-ec2-metadata-token") == token else (401, "")


def test_aws_is_asked_with_a_session_token_and_says_when(metadata: Metadata) -> None:
    metadata.answers = {TOKEN: (200, "secret"), ACTION: _with_token("secret", (404, "")), REBALANCE: (200, "{}")}
    aws = AwsSpot(metadata.url)
    assert aws.look(GRACE) is None
    method, path, headers = metadata.requests[0]
    assert (method, path, headers["x-aws-ec2-metadata-token-ttl-seconds"]) == ("PUT", TOKEN, "21600")
    moment = _in(120).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata.answers[ACTION] = _with_token("secret", (200, json.dumps({"action": "terminate", "time": moment})))
    left = aws.look(GRACE)
    assert left is not None
    assert 60 < left <= 120
    assert [path for _, path, _ in metadata.requests].count(TOKEN) == 1


def test_aws_gives_out_a_new_token_when_the_old_one_has_expired(metadata: Metadata) -> None:
    metadata.answers = {TOKEN: (200, "old"), ACTION: _with_token("old", (404, ""))}
    aws = AwsSpot(metadata.url)
    assert aws.look(GRACE) is None
    metadata.answers = {TOKEN: (200, "new"), ACTION: _with_token("new", (404, ""))}
    assert aws.look(GRACE) is None


def test_a_rebalance_recommendation_counts_only_where_it_is_asked_for(metadata: Metadata) -> None:
    metadata.answers = {TOKEN: (200, "secret"), REBALANCE: (200, "{}")}
    assert AwsSpot(metadata.url).look(GRACE) is None
    assert AwsSpot(metadata.url, rebalance=True).look(GRACE) == 120


# -- GCP -------------------------------------------------------------------------------------------------------

INSTANCE = "/computeMetadata/v1/instance"


@pytest.mark.parametrize(
    ("preempted", "maintenance", "left"),
    [
        ("FALSE", "NONE", None),
        ("TRUE", "NONE", 30),
        ("FALSE", "MIGRATE_ON_HOST_MAINTENANCE", None),
        ("FALSE", "TERMINATE_ON_HOST_MAINTENANCE", 60),
    ],
)
def test_gcp_says_that_it_is_preempted_or_loses_its_host(
    metadata: Metadata, preempted: str, maintenance: str, left: float | None
) -> None:
    metadata.answers = {f"{INSTANCE}/preempted": (200, preempted), f"{INSTANCE}/maintenance-event": (200, maintenance)}
    assert GcpPreemption(metadata.url).look(GRACE) == left
    assert all(headers["metadata-flavor"] == "Google" for _, _, headers in metadata.requests)


# -- Azure -----------------------------------------------------------------------------------------------------

EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"


def _event(kind: str, machine: str, when: datetime | None) -> dict[str, object]:
    moment = "" if when is None else format_datetime(when.astimezone(UTC), usegmt=True)
    return {"EventId": "1", "EventType": kind, "Resources": [machine], "NotBefore": moment}


@pytest.mark.parametrize(
    ("events", "least", "most"),
    [
        ([], None, None),
        ([("Reboot", "me", 30)], None, None),
        ([("Preempt", "another", 30)], None, None),
        ([("Preempt", "another", 5), ("Preempt", "me", 30)], 10, 30),
        ([("Terminate", "me", 300), ("Preempt", "me", 40)], 10, 40),
        ([("Preempt", "me", None)], GRACE, GRACE),
    ],
)
def test_azure_names_the_machines_and_only_this_ones_events_count(
    metadata: Metadata, events: list[tuple[str, str, float | None]], least: float | None, most: float | None
) -> None:
    listed = [_event(kind, name, None if left is None else _in(left)) for kind, name, left in events]
    metadata.answers = {EVENTS: (200, json.dumps({"DocumentIncarnation": 1, "Events": listed})), NAME: (200, "me")}
    left = AzureEvents(metadata.url).look(GRACE)
    if least is None or most is None:
        assert left is None
    else:
        assert left is not None
        assert least <= left <= most
    assert all(headers["metadata"] == "true" for _, _, headers in metadata.requests)


# -- Slurm, files ----------------------------------------------------------------------------------------------


def test_slurms_time_limit_is_known_ahead() -> None:
    assert SlurmTimeLimit({"SLURM_JOB_END_TIME": str(time.time() + 60)}).look(GRACE) is None
    left = SlurmTimeLimit({"SLURM_JOB_END_TIME": str(time.time() + 10)}).look(GRACE)
    assert left is not None
    assert 0 < left <= 10


def test_a_job_whose_end_nobody_knows_is_told_what_to_ask_for_instead(
    monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    with pytest.raises(ValueError, match="--signal=USR1@120"):
        make(model=Toy(), preemption=Preemption(watch=("slurm",)))


def test_a_file_counts_once_it_is_touched_and_not_as_it_was_found(tmp_path: Path) -> None:
    path = tmp_path / "stop"
    watched = WatchedFile(path)
    assert watched.look(GRACE) is None
    path.touch()
    assert watched.look(GRACE) == GRACE
    found = WatchedFile(path)
    assert found.look(GRACE) is None
    os.utime(path, ns=(1, 1))
    assert found.look(GRACE) == GRACE


def test_words_name_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")
    assert [type(source(word)) for word in ("aws", "gcp", "azure", "slurm")] == [
        AwsSpot,
        GcpPreemption,
        AzureEvents,
        SlurmTimeLimit,
    ]
    own = AwsSpot(rebalance=True)
    assert source(own) is own


# -- the thread that asks --------------------------------------------------------------------------------------


class Told:
    """A source that says what it is told, each in turn and the last again and again."""

    name = "told"
    period = 0.001

    def __init__(self, *says: float | Exception | None) -> None:
        self._says = list(says)

    def look(self, grace: float) -> float | None:
        said = self._says.pop(0) if len(self._says) > 1 else self._says[0]
        if isinstance(said, Exception):
            raise said
        return said


def _first(notices: Notices) -> str:
    deadline = time.monotonic() + PATIENCE
    while notices.first is None:
        assert time.monotonic() < deadline, "no notice"
        time.sleep(0.001)
    return notices.first.source


def test_a_source_that_fails_is_told_of_once_and_asked_again() -> None:
    recorder, notices = Recorder(), Notices()
    failing: list[Source] = [Told(OSError("no route"), OSError("no route"), AsyncCkptError("odd"), None, 3.0)]
    watching = Watching(failing, notices, GRACE, Listeners([recorder]))
    watching.start()
    assert _first(notices) == "told"
    watching.stop()
    assert [(event.feature, event.reason) for event in recorder.of(Fallback)] == [
        ("notices of told", "OSError('no route')")
    ]


def test_a_source_that_hangs_holds_the_end_up_for_a_moment_only(caplog: pytest.LogCaptureFixture) -> None:
    reached, release = Event(), Event()

    class Hanging:
        name, period = "hanging", 1.0

        def look(self, grace: float) -> float | None:
            reached.set()
            release.wait()
            raise OSError("at last")

    recorder = Recorder()
    watching = Watching([Hanging()], Notices(), GRACE, Listeners([recorder]))
    watching.start()
    reached.wait()
    watching.stop(0.1)
    assert "asking hanging for notices did not end within 0.1 s" in caplog.text
    release.set()
    assert watching._thread is not None
    watching._thread.join()
    assert recorder.of(Fallback) == []


def test_the_first_notice_names_who_gave_it_and_the_earliest_deadline_counts() -> None:
    notices = Notices()
    watching = Watching([Told(100.0)], notices, GRACE, Listeners())
    watching.start()
    _first(notices)
    watching.stop()
    early = Watching([Told(1.0)], notices, GRACE, Listeners())
    early.start()
    early._thread.join()  # it asks no more once everybody has said so
    assert notices.first is not None
    assert (notices.first.source, notices.first.left < 2) == ("told", True)


def test_a_training_hears_of_its_cloud(make: Make, metadata: Metadata, recorder: Recorder) -> None:
    moment = _in(60).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata.answers = {TOKEN: (200, "secret"), ACTION: (200, json.dumps({"action": "stop", "time": moment}))}
    ckpt = make(model=Toy(), preemption=Preemption(watch=(AwsSpot(metadata.url),)))
    _first(ckpt._stopping._notices)
    with pytest.raises(Preempted) as raised:
        ckpt.step(1)
    assert (raised.value.source, raised.value.code, raised.value.saved) == ("aws", 143, 1)
    (noticed,) = recorder.of(PreemptionNoticed)
    assert 30 < noticed.seconds <= 60
    ckpt.close()


def test_a_training_hears_of_a_file(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "stop"
    ckpt = make(model=Toy(), preemption=Preemption(signals=(), watch=(path,), exit_code=85))
    ckpt.step(1)
    path.touch()
    _first(ckpt._stopping._notices)
    with pytest.raises(Preempted) as raised:
        ckpt.step(2)
    assert (raised.value.source, raised.value.code) == ("file", 85)
    ckpt.close()
