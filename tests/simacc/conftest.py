"""All tests here run on the simulated device, and must not leave a race behind."""

import pytest

from asyncckpt.testing.simacc.fixtures import simulated  # noqa: F401


@pytest.fixture(autouse=True)
def _on_simulated_device(simulated: None) -> None:  # noqa: F811 -- a fixture for what it does
    pass
