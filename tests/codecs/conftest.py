from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from asyncckpt import keys

from ..checkpointer.conftest import executor, pytest_generate_tests, recorder

__all__ = ["executor", "pytest_generate_tests", "recorder"]

if sys.platform == "linux":
    from ..executor.conftest import shared_runtime, zygote

    __all__ += ["shared_runtime", "zygote"]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key is known but those that a test makes known."""
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    monkeypatch.delenv(keys.FILE_VARIABLE, raising=False)
    keys.forget()
    yield
    keys.forget()


@pytest.fixture
def key() -> str:
    """The id of a key that was registered."""
    return keys.register(keys.generate())
