"""What the simulator finds in PyTorch itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from asyncckpt.testing import simacc


@pytest.fixture
def staged() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A model's state before a step, as staged right after that step, and after it."""
    options = StagingOptions(
        use_pinned_memory=False, use_shared_memory=False, use_async_staging=True, use_non_blocking_copy=True
    )
    model = nn.Linear(64, 64).to("sim")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    stager = DefaultStager(options)
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


def test_dcp_stages_what_was_there_before_the_step(
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
