"""What the simulator finds in PyTorch itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing import simacc

OPTIONS = StagingOptions(
    use_pinned_memory=False, use_shared_memory=False, use_async_staging=True, use_non_blocking_copy=True
)


@pytest.fixture
def staged() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A model's state before a step, as staged right after that step, and after it."""
    model = nn.Linear(64, 64).to("sim")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    stager = DefaultStager(OPTIONS)
    stage(stager, model)
    before = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    simacc.reset()
    with simacc.hold(torch.accelerator.current_stream()):  # a device that is behind the host
        model(torch.ones(8, 64, device="sim")).square().mean().backward()
        optimizer.step()
        copied = stage(stager, model)
    after = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    stager.close()
    return before, copied, after


def stage(stager: DefaultStager, model: nn.Module) -> dict[str, Tensor]:
    future = stager.stage(dict(model.state_dict()))
    assert not isinstance(future, dict)
    return {name: tensor.clone() for name, tensor in future.result().items()}


def test_T17_dcp_stages_what_was_there_before_the_step(
    staged: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]],
) -> None:
    """Its staging stream does not wait for the current one, so it may copy what the step has not yet written.

    Once this fails, upstream has added that wait: say so in simacc's README, and delete this test.
    """
    before, copied, after = staged
    assert all(torch.equal(copied[name], before[name]) for name in before)
    assert not any(torch.equal(copied[name], after[name]) for name in after)
    races = simacc.races()
    assert races
    assert all(race.startswith("read by stream") and "(copy_)" in race for race in races)


class Waiting(DefaultStager):
    """With the wait that is missing."""

    def stage(self, *given: Any, **options: Any) -> Any:
        assert self._staging_stream is not None
        self._staging_stream.wait_stream(torch.accelerator.current_stream())
        return super().stage(*given, **options)


def test_T17_with_that_wait_dcp_stages_what_is_there_after_the_step() -> None:
    """So it is that wait, and nothing else, that the test above misses."""
    model = nn.Linear(64, 64).to("sim")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    stager = Waiting(OPTIONS)
    stage(stager, model)
    with simacc.hold(torch.accelerator.current_stream()) as release:
        model(torch.ones(8, 64, device="sim")).square().mean().backward()
        optimizer.step()
        future = stager.stage(dict(model.state_dict()))
        release()
        copied = {name: tensor.clone() for name, tensor in future.result().items()}
    stager.close()
    assert all(torch.equal(copied[name], tensor.cpu()) for name, tensor in model.state_dict().items())
    assert simacc.races() == []


def test_T17_asyncckpt_saves_what_is_there_after_the_step() -> None:
    model, store = nn.Linear(64, 64).to("sim"), MemoryStorage("beside")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with AsyncCheckpointer(store, model=model, optimizer=optimizer) as checkpointer:
        with simacc.hold(torch.accelerator.current_stream()):
            model(torch.ones(8, 64, device="sim")).square().mean().backward()
            optimizer.step()
            handle = checkpointer.save(1)
        handle.wait()
    found = asyncckpt.load(store).state["model"]
    assert all(torch.equal(found[name], tensor.cpu()) for name, tensor in model.state_dict().items())
