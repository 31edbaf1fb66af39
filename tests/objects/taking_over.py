"""One run in a bucket of two trainings, one after the other, and what the first has to find."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy, load
from asyncckpt.errors import Fenced, SaveFailed
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.testing.store import use

from ..checkpointer.trainings import Training, elsewhere, steps
from .test_training import checkpointer


def big() -> Training:
    training = Training()
    training.model = torch.nn.Linear(2048, 2048)  # 16 MiB: more than one block
    return training


def trained(ckpt: AsyncCheckpointer, training: Training, *numbers: int) -> None:
    for step in numbers:
        with torch.no_grad():
            training.model.weight.fill_(step)
        ckpt.save(step).wait()


def taken_over(url: str, options: dict[str, Any], executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second training goes on from what the first has left, and the first is fenced."""
    training = big()
    more: dict[str, Any] = {"optimizer": None, "executor": executor, "keep": RetentionPolicy(last=2)}
    ckpt = checkpointer(training, url, options, **more)
    assert ckpt.resume() is None
    trained(ckpt, training, 1, 2, 3)
    ckpt.wait(60)
    elsewhere(monkeypatch)
    second = big()
    with checkpointer(second, url, options, **more) as other:
        state = other.resume()
        assert state is not None
        assert state.step == 3
        assert second.model.weight.eq(3).all()
        with pytest.raises(SaveFailed) as caught:
            ckpt.save(4).wait()
        assert isinstance(caught.value.failures[4], Fenced)
        trained(other, second, 5)
        assert steps(other) == [3, 5]
    ckpt.close()
    with checkpointer(big(), url, options, **more) as last:  # which removes what the fenced one has left
        last.resume()
        last.wait(60)
    assert load(url, storage_options=options).info.step == 5

    async def look(store: Storage) -> None:
        assert {found.key.split("-")[2] async for found in store.list("data/")} == {"3", "5"}

    use(from_url(url, options), look)
