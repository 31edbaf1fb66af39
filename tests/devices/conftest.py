"""All tests here run on the simulated device, and must not leave a race behind; the worker's reads are declared."""

import pytest

from asyncckpt.staging import pinning
from asyncckpt.testing import simacc
from asyncckpt.testing.simacc.fixtures import simulated  # noqa: F401

from .declaring import declare_digests, declare_what_another_process_reads


@pytest.fixture(autouse=True)
def _on_simulated_device(
    simulated: None,  # noqa: F811 -- a fixture for what it does
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registrar = pinning.Registrar(simacc.host_register, simacc.host_unregister)
    monkeypatch.setitem(pinning._registrars, "sim", registrar)
    declare_digests(monkeypatch)
    declare_what_another_process_reads(monkeypatch)
