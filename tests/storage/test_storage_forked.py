"""A process that is forked from one that has a bucket open has neither its loop nor its thread, and is told so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from asyncckpt.testing.slow import PATIENCE

_FORKS = """
import asyncio, os, sys
from asyncckpt.errors import StorageError
from asyncckpt.storage.crossing import Crossing

async def work():
    return "done"

crossing = Crossing("asyncckpt-there", "s3://bucket/run")
print(asyncio.run(crossing.call(work)), flush=True)
if (child := os.fork()) == 0:
    try:
        asyncio.run(crossing.call(work))
    except StorageError as error:
        print(error, crossing.is_running, flush=True)
    asyncio.run(crossing.aclose())
    os._exit(0)
os.waitpid(child, 0)
print(asyncio.run(crossing.call(work)), flush=True)
asyncio.run(crossing.aclose())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no forks")
def test_it_is_told_so_and_the_other_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKS], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    said = "s3://bucket/run: opened by the process that this is a fork of; open it here anew False"
    assert done.stdout.splitlines() == ["done", said, "done"], done.stderr
