"""Real processes that get a real signal, saving to a real S3 server through a line of known bandwidth.

Nobody kills them: each has to end by itself, with the conventional status, whatever it had time for. What it was, and
what it said of its own end, has to be what is there, also on a machine that has much else to do and makes it late.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncckpt import AsyncCheckpointer, CheckpointInfo
from asyncckpt.preemption.stop import usable
from asyncckpt.storage import from_url
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.slow import PATIENCE

if TYPE_CHECKING:
    from asyncckpt.testing.s3server import S3Server

pytestmark = pytest.mark.kills

MEGA = 1e6

ROUNDED = 0.11
"""Seconds by which what is printed of two times may differ from what they are."""


def _preempted(
    root: str,
    grace: float,
    *,
    saves: bool,
    library: str = "",
    environment: dict[str, str] | None = None,
    then: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """Its exit status, and what it logged; told after `then`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.preemption.graced", root, str(grace), "saves" if saves else "does not", library],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    then()
    process.send_signal(signal.SIGTERM)
    try:
        _, errors = process.communicate(timeout=grace + PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    _check_planned(errors)
    return process.returncode, errors


def _check_planned(said: str) -> None:
    """What it found to be in time was, by its own clock, and what it found to be too long was not."""
    told = re.findall(r"this process will be killed in (\S+) s", said)
    assert len(told) == 1, said
    for seconds, found in re.findall(r"takes (\S+) s: (in time|too long)", said):
        spare = usable(float(told[0])) - float(seconds)
        assert abs(spare) < ROUNDED or found == ("in time" if spare > 0 else "too long"), said


class Bucket:
    """A root that nobody else has, behind a line of known bandwidth, which one `library` or the other talks through."""

    def __init__(self, server: S3Server, line: Proxy, library: str) -> None:
        self._server = server
        self._library = library
        self._line = line
        self._url = f"s3://tests/{secrets.token_hex(8)}/run"

    def preempted(
        self, rate: float, grace: float, *, saves: bool = True, slower: float | None = None
    ) -> tuple[int, str]:
        """As `_preempted`, with `rate` bytes a second, and from the notice on with what is `slower`."""
        self._line.limit(rate)
        environment = self._server.variables(self._line.endpoint)
        status, said = _preempted(
            *(self._url, grace),
            saves=saves,
            library=self._library,
            environment=environment,
            then=lambda: self._line.limit(slower or rate),
        )
        for measured in re.findall(r"(\S+) MB/s and \S+ s were measured, at worst, with 1 of the last saves", said):
            assert 0 < float(measured) * MEGA <= 1.01 * rate
        return status, said

    def listed(self) -> list[CheckpointInfo]:
        with AsyncCheckpointer(from_url(self._url, self._server.options())) as reader:
            return reader.checkpoints()


def _check_partial(listed: list[CheckpointInfo], said: str) -> None:
    """What was said of the end is what is there: a partial one; or maybe, and nothing else, where that was late."""
    ended = re.search(r"preempted after step (\d+): (partial|late), \S+ s before the end", said)
    assert ended is not None, said
    assert [(info.step, info.partial) for info in listed] in (
        [[(int(ended[1]), True)]] if ended[2] == "partial" else [[], [(int(ended[1]), True)]]
    )


@pytest.fixture(params=["obstore", "fsspec"])
def bucket(s3: S3Server, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    with Proxy(s3.port) as line:
        yield Bucket(s3, line, request.param)


def test_thirty_seconds_are_enough_for_everything(bucket: Bucket) -> None:
    status, said = bucket.preempted(8 * MEGA, 30)
    assert status == 143, said
    first, last = bucket.listed()
    assert (first.step, last.partial, last.size > first.size * 0.9) == (1, False, True)
    assert re.search(rf"after step {last.step}: the whole state is saved\. .* MB/s .*; the whole state takes", said)
    assert "in time" in said
    assert f"preempted after step {last.step}: durable" in said


def test_five_seconds_are_enough_for_the_weights(bucket: Bucket) -> None:
    """Of 4 MB and 8 MB at 3.5 MB/s all takes 3.6 s, maybe 4.5; what is left of five seconds is no more than four."""
    status, said = bucket.preempted(3.5 * MEGA, 5)
    assert status == 143, said
    first, *last = bucket.listed()
    assert re.search(
        r"the whole state takes \S+ s: too long; a part of it, without optimizer, takes \S+ s: (in time|too long)", said
    )
    assert (first.step, first.partial) == (1, False)
    _check_partial(last, said)


def test_half_a_second_is_enough_for_nothing_and_what_was_there_is_sound(bucket: Bucket) -> None:
    """What was measured says so; what takes least is tried all the same, and given up for the end of the process."""
    status, said = bucket.preempted(8 * MEGA, 0.5, slower=MEGA / 10)
    assert status == 143, said
    (first,) = bucket.listed()
    assert (first.step, first.partial) == (1, False)
    assert "nothing is in time; what takes least is tried: a part of it, without optimizer," in said
    assert re.search(r"preempted after step \d+: late, \S+ s before the end", said), said
    assert "no garbage is looked for" in said


@pytest.mark.parametrize("bucket", ["fsspec"], indirect=True)
def test_before_a_first_save_five_seconds_have_the_weights_first(bucket: Bucket) -> None:
    """At 2.5 MB/s they take 1.7 s, and the rest 3.4 s more: nobody has measured that, and nobody has to."""
    status, said = bucket.preempted(2.5 * MEGA, 5, saves=False)
    assert status == 143, said
    assert "a part of the state is saved, without optimizer, and then the whole state. nothing was measured yet" in said
    _check_partial(bucket.listed(), said)


def test_half_a_second_is_enough_for_a_small_state_on_a_quick_store(tmp_path: Path) -> None:
    """Or, on a machine that has much else to do, for less: what is said of the end is what is there."""
    status, said = _preempted(str(tmp_path / "run"), 0.5, saves=True)
    assert status == 143, said
    with AsyncCheckpointer(tmp_path / "run") as reader:
        first, *more = [(info.step, info.partial) for info in reader.checkpoints()]
    assert first == (1, False)
    ended = re.search(r"preempted after step (\d+): (durable|partial|late), \S+ s before the end", said)
    assert ended is not None, said
    whole, part = [(int(ended[1]), False)], [(int(ended[1]), True)]
    assert more in {"durable": [whole], "partial": [part], "late": [[], whole, part]}[ended[2]]
    assert "no garbage is looked for" in said
