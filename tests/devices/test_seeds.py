"""Random numbers of every device: seeded with all others, and in every checkpoint (features A6, C13)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.run import set_seed


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    python, numpy = random.getstate(), np.random.get_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)


def draws() -> list[float]:
    return [torch.rand(1, device=device).item() for device in ("cpu", "sim:0", "sim:1")]


def test_a6_every_device_is_seeded_too() -> None:
    set_seed(7, deterministic=False)
    first = draws()
    others = draws()
    assert all(one != other for one, other in zip(first, others, strict=True))
    set_seed(7, deterministic=False)
    assert draws() == first


def test_c13_what_each_device_draws_comes_back(tmp_path: Path) -> None:
    def opened() -> AsyncCheckpointer:
        return AsyncCheckpointer(tmp_path / "run", model=torch.nn.Linear(2, 2), executor="thread")

    torch.manual_seed(7)
    with opened() as ckpt:
        ckpt.save(1).wait()
        expected = draws()
        ckpt.restore()
        assert draws() == expected
    torch.manual_seed(8)
    with opened() as ckpt:
        ckpt.resume()
        assert draws() == expected
