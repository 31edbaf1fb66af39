"""Fixtures: what a pytest module on the simulated device needs. A ``conftest.py`` or test module imports them by name.

With this module the device is hidden from tests that do not ask for it, though they run in the same process.

::

    from asyncckpt.testing.simacc.fixtures import simulated  # noqa: F401

    pytestmark = pytest.mark.usefixtures("simulated")
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from asyncckpt.testing import simacc

simacc.configure(available=False)


@pytest.fixture
def simulated() -> Iterator[None]:
    """Devices as new: default knobs, counters at zero, threads followed. At the end, no race may be left over.

    A test that expects races takes them with `simacc.races` first. One that leaves a stream held fails.
    """
    _wait_for_all()
    simacc.reset_knobs()
    simacc.reset()
    simacc.forget()
    with simacc.following_threads():
        yield
    left = simacc.release_all()
    simacc.reset_knobs()
    simacc.configure(available=False)
    _wait_for_all()
    assert left == 0, f"{left} streams were still held at the end of the test"
    found = simacc.races()
    assert not found, "\n".join(found)


def _wait_for_all() -> None:
    for index in range(torch.accelerator.device_count()):
        torch.accelerator.synchronize(index)


__all__ = ["simulated"]
