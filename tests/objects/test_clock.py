"""A training whose clock is wrong: the store refuses what it signs, which is said, and costs the saves of that time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncckpt.testing.s3server import S3Server

from ..checkpointer.trainings import Training, steps
from .conftest import HASTY, Backend
from .test_training import checkpointer

SHIFTED = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, id, now);
    const char *shift = getenv("SHIFT");
    if (!failed && id == CLOCK_REALTIME && shift) now->tv_sec += atol(shift);
    return (int)failed;
}
"""
"""A wall clock that is off by some seconds, for all that a process does; the monotonic one is right."""

TRAIN = """
import json, os, sys
from asyncckpt.errors import SaveFailed, StorageDenied
from tests.checkpointer.trainings import Training, steps
from tests.objects.test_training import checkpointer
url, options = sys.argv[1], json.loads(sys.argv[2])
training = Training()
with checkpointer(training, url, options) as ckpt:
    assert ckpt.resume().step == 1
    training.step()
    ckpt.save(2).wait()
    os.environ["SHIFT"] = sys.argv[3]
    training.step()
    try:
        ckpt.save(3).wait()
    except SaveFailed as failed:
        error = failed.failures[3]
    assert isinstance(error, StorageDenied), error
    assert "this machine's clock differs too much" in str(error), error
    training.step()
    os.environ["SHIFT"] = "0"
    ckpt.save(4).wait()
    assert steps(ckpt) == [1, 2, 4]
with checkpointer(Training(), url, options) as ckpt:
    os.environ["SHIFT"] = sys.argv[3]
    try:
        ckpt.resume()
    except StorageDenied as denied:
        assert "this machine's clock differs too much" in str(denied), denied
    else:
        raise AssertionError("a fresh start")
    os.environ["SHIFT"] = "0"
"""


@pytest.mark.parametrize("shift", ["-3600", "3600"])
def test_a_clock_that_is_wrong_costs_the_saves_of_that_time_and_is_never_a_fresh_start(
    s3: S3Server, url: str, backend: Backend, shift: str, tmp_path: Path
) -> None:
    (tmp_path / "shifted.c").write_text(SHIFTED)
    made = ["cc", "-shared", "-fPIC", "-o", tmp_path / "shifted.so", tmp_path / "shifted.c"]
    subprocess.run(made, check=True, capture_output=True)
    options = s3.options(asyncckpt=HASTY, backend=backend)
    training = Training()
    with checkpointer(training, url, options) as ckpt:
        training.step()
        ckpt.save(1).wait()
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, url, json.dumps(options), shift],
        env=os.environ | {"LD_PRELOAD": str(tmp_path / "shifted.so"), "ASYNCCKPT_RUNTIME_DIR": str(tmp_path / "run")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with checkpointer(Training(), url, options) as ckpt:
        assert steps(ckpt) == [1, 2, 4]
    objects, uploads = s3.stored(url)
    assert uploads == []
    assert {key.split("/")[1].split("-")[2] for key in objects if key.startswith("data/")} == {"1", "2", "4"}
