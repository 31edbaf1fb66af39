from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from ..checkpointer.conftest import executor, make, pytest_generate_tests, recorder, registry, store

__all__ = ["executor", "make", "pytest_generate_tests", "recorder", "registry", "store"]

if sys.platform == "linux":
    from ..executor.conftest import killed, shared_runtime, zygote

    __all__ += ["killed", "shared_runtime", "zygote"]


@pytest.fixture(autouse=True)  # and so before `make`, whose workers ask here until they have ended
def mirror(tmp_path: Path, executor: str) -> Iterator[GatedStorage]:
    """A mirror whose requests the test can hold and fail, also those of a worker process."""
    if executor == "process":
        from asyncckpt.testing.shared import SharedGates

        shared = SharedGates(tmp_path / "mirror")
        yield shared
        shared.close()
    else:
        gated = GatedStorage(MemoryStorage(f"mirror-of-{tmp_path}"))
        yield gated
        gated.release()
