"""D19, D20: when a row is written, what is in it, and that it is there when the call returns."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from asyncckpt.metrics_log import MetricsLog, journal, read_metrics
from asyncckpt.metrics_log.rows import numbers_of
from asyncckpt.storage import MemoryStorage

from .conftest import Open


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def strict(line: str) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    found: dict[str, object] = json.loads(line, parse_constant=refuse)
    return found


def test_D19_rows_are_due_at_each_multiple_and_at_step_0(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "logs", every=10) as log:
        assert [step for step in range(31) if log.is_due(step)] == [0, 10, 20, 30]
    assert not (tmp_path / "logs").exists()
    assert MetricsLog(tmp_path).every == 10


@pytest.mark.parametrize("every", [0, -1])
def test_D19_an_interval_that_means_nothing_is_refused(tmp_path: Path, every: int) -> None:
    with pytest.raises(ValueError, match=f"every={every}"):
        MetricsLog(tmp_path, every=every)


def test_D20_a_row_is_one_json_object_and_is_there_when_the_call_returns(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        before = datetime.now(UTC)
        log.log(10, {"loss": 1.5, "learning_rate": 0.001})
        (line,) = lines(tmp_path)
        row = strict(line)
        assert list(row) == ["step", "timestamp", "loss", "learning_rate"]
        assert (row["step"], row["loss"], row["learning_rate"]) == (10, 1.5, 0.001)
        assert before <= datetime.fromisoformat(str(row["timestamp"])) <= datetime.now(UTC)


def test_D20_NaN_and_infinities_are_strict_json_and_come_back(start: Open) -> None:
    log = start()
    log.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": torch.tensor(math.nan), "e": -0.0, "f": 1e-320})
    (row,) = log.history().rows
    assert math.isnan(row.metrics["a"])
    assert math.isnan(row.metrics["d"])
    assert (row.metrics["b"], row.metrics["c"], row.metrics["f"]) == (math.inf, -math.inf, 1e-320)
    assert math.copysign(1, row.metrics["e"]) == -1


def test_D20_NaN_is_written_as_a_string_that_every_float_reads(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss": math.nan, "low": -math.inf})
    row = strict(lines(tmp_path)[0])
    assert (row["loss"], row["low"]) == ("NaN", "-Infinity")
    assert math.isnan(np.float64(str(row["loss"])))


class Stage(IntEnum):
    WARM = 3


def test_D20_tensors_and_scalars_of_every_kind_are_numbers(start: Open) -> None:
    values = {
        "tensor": torch.tensor(0.5, dtype=torch.bfloat16),
        "one": torch.ones(1, 1, requires_grad=True),
        "count": torch.tensor(7),
        "numpy": np.float32(0.25),
        "wide": np.int64(2**40),
        "flag": np.bool_(True),
        "array": np.array([2.0]),
        "decimal": Decimal("0.125"),
        "fraction": Fraction(1, 4),
        "enum": Stage.WARM,
        "large": 10**30,
        "none": None,
        "bool": False,
    }
    log = start()
    log.log(1, values)
    (row,) = log.history().rows
    assert row.metrics == {
        "tensor": 0.5, "one": 1.0, "count": 7, "numpy": 0.25, "wide": 2**40, "flag": True, "array": 2.0,
        "decimal": 0.125, "fraction": 0.25, "enum": 3, "large": 10**30, "none": None, "bool": False,
    }  # fmt: skip
    assert {type(value) for value in numbers_of(values).values()} == {float, int, bool, type(None)}


def test_D20_a_metric_called_step_changes_no_step_and_is_not_lost(start: Open) -> None:
    given = {"step": 999, "timestamp": 1.0, "event": 2.0, "_step": 3.0, "__event": 4.0, "_loss": 5.0}
    log = start()
    log.log(10, given)
    (row,) = log.history().rows
    assert (row.step, row.metrics, row.event) == (10, given, None)
    assert log.history().latest_step == 10


@pytest.mark.parametrize(
    ("value", "shown"),
    [("0.5", "a str"), (torch.ones(3), r"a Tensor of shape \(3,\)"), (1j, "a complex"), ([1.0], "a list")],
    ids=["text", "tensor", "complex", "list"],
)
def test_D20_what_is_no_number_is_refused_by_name_before_anything_is_written(
    start: Open, value: object, shown: str
) -> None:
    log = start()
    with pytest.raises(TypeError, match=f"metric 'val/acc' is {shown}: give a number"):
        log.log(1, {"loss": 1.0, "val/acc": value})
    with pytest.raises(TypeError, match="a name that is not a string: 3"):
        log.log(1, {3: 1.0})
    assert log.history().rows == ()


@pytest.mark.parametrize(("step", "error"), [(1.0, TypeError), (True, TypeError), ("1", TypeError), (-1, ValueError)])
def test_D20_what_is_no_step_is_refused(start: Open, step: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="step="):
        start().log(step, {"loss": 1.0})


def test_D20_any_integer_is_a_step(start: Open) -> None:
    log = start()
    log.log(np.int64(5), {"loss": 1.0})
    log.log(torch.tensor(6), {"loss": 1.0})
    assert [row.step for row in log.history().rows] == [5, 6]


KILLED = """
import os, signal, sys
from asyncckpt.metrics_log import MetricsLog
log = MetricsLog(sys.argv[1])
for step in range(100):
    log.log(step, {"loss": 1 / (step + 1)})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_D20_a_kill_right_after_the_call_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [row.step for row in read_metrics(tmp_path).rows] == list(range(100))


def test_D20_threads_never_mix_their_rows(start: Open) -> None:
    log = start()

    def write(number: int) -> None:
        for step in range(200):
            log.log(step, {f"m{number}": number, "padding": 10**200})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = log.history()
    assert (len(history.rows), history.bad) == (800, 0)
    assert all(history.series(f"m{number}")[0] == list(range(200)) for number in range(4))


WRITER = """
import sys
from asyncckpt.metrics_log import MetricsLog
with MetricsLog(sys.argv[1]) as log:
    log.log(0, {sys.argv[2]: 0.0})
    print("open", flush=True)
    sys.stdin.readline()
    for step in range(1, 300):
        log.log(step, {sys.argv[2]: float(step)})
"""


def test_D20_several_processes_may_log_to_one_folder_at_once(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in "abc"
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
    for process in started:
        process.communicate("go\n", timeout=120)
        assert process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics-2.jsonl", "metrics-3.jsonl", "metrics.jsonl"]
    history = read_metrics(tmp_path)
    assert (len(history.rows), history.bad) == (900, 0)
    assert all(history.series(name)[1] == [float(step) for step in range(300)] for name in "abc")


FULL = """
import logging, resource, signal, sys
from asyncckpt.metrics_log import MetricsLog, read_metrics
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = MetricsLog(sys.argv[1])
log.log(1, {"loss": 1.0})
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for step in range(2, 6):
    log.log(step, {"loss": 1.0})
with open(sys.argv[1] + "/metrics.jsonl", "rb") as file:
    assert file.read().count(b"\\n") == 1, "half a row"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.log(6, {"loss": 1.0})
assert log.flush()
history = log.history()
assert [row.step for row in history.rows] == [1, 2, 3, 4, 5, 6] and history.bad == 0, history
assert log.lost == 0
log.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no resource limits")
def test_D20_a_full_disk_is_said_once_and_nothing_is_lost_when_there_is_room_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, tmp_path], check=False, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == 2
    assert re.search(r"metrics\.jsonl cannot be written \(.*File too large.*\); training goes on", said[0])
    assert said[1].endswith("metrics.jsonl is written again")


def test_D20_a_folder_that_cannot_be_made_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").write_text("in the way")
    log = MetricsLog(tmp_path / "logs")
    for step in range(10_005):
        log.log(step, {"loss": 1.0})
    assert not log.flush()
    assert log.lost == 5
    log.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert re.search(r"logs/metrics\.jsonl cannot be written \(.*\); training goes on", said[0])
    assert said[1].endswith("metrics.jsonl: 10000 rows could not be written and are lost")


def test_D20_rows_that_wait_are_written_with_the_next_one_once_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "AGAIN", 0.0)
    (tmp_path / "logs").write_text("in the way")
    with MetricsLog(tmp_path / "logs") as log:
        log.log(1, {"loss": 1.0})
        (tmp_path / "logs").unlink()
        log.log(2, {"loss": 1.0})
        assert [strict(line)["step"] for line in lines(tmp_path / "logs")] == [1, 2]


def test_D20_logging_after_close_is_an_error_of_the_call(start: Open) -> None:
    log = start()
    log.log(1, {"loss": 1.0})
    log.close()
    log.close()
    with pytest.raises(ValueError, match=r"metrics\.jsonl is closed"):
        log.log(2, {"loss": 1.0})


def test_D20_rows_reach_a_store_in_parts_and_leave_nothing_on_this_machine(
    tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncckpt.metrics_log.spool.PART", 500)
    store = MemoryStorage(str(tmp_path))
    log = MetricsLog(store)
    for step in range(100):
        log.log(step, {"loss": float(step)})
        if step % 30 == 0:
            assert log.flush()
    log.close()
    assert len(store._objects) > 5
    assert read_metrics(store).series("loss")[1] == [float(step) for step in range(100)]
    assert [path for path in caches.rglob("*") if path.is_file()] == []


def test_D20_the_file_has_the_permissions_that_the_umask_says(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("there is no umask")
    before = os.umask(0o027)
    try:
        with MetricsLog(tmp_path / "logs") as log:
            log.log(1, {"loss": 1.0})
    finally:
        os.umask(before)
    assert (tmp_path / "logs/metrics.jsonl").stat().st_mode & 0o777 == 0o640
