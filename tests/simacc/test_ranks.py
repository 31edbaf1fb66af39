"""More than one rank: collectives on a stream, with which DDP and FSDP2 train."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from asyncckpt.testing.ranks import run_ranks
from tests.simacc import rank_programs

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    """What one process makes of the batches of both ranks."""
    model = rank_programs.make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for batch in zip(rank_programs.batches(0), rank_programs.batches(1), strict=True):
        optimizer.zero_grad()
        model(torch.cat(batch)).square().mean().backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("program", [rank_programs.data_parallel, rank_programs.fully_sharded])
def test_training_is_that_of_one_process(
    program: Callable[[], tuple[dict[str, Tensor], list[str]]], expected: dict[str, Tensor]
) -> None:
    for trained, races in run_ranks(program, 2):
        assert races == []
        assert all(torch.allclose(trained[name], expected[name], atol=1e-5) for name in expected)


def test_collectives() -> None:
    for rank, told in enumerate(run_ranks(rank_programs.collectives, 2)):
        assert told == {
            "sum": [10, 12],
            "mean": [5, 6],
            "max": [10, 11],
            "broadcast": [10, 11],
            "reduce": [10, 12] if rank == 0 else told["reduce"],
            "all_gather": [0, 1, 10, 11],
            "all_gather_into_tensor": [0, 1, 10, 11],
            "reduce_scatter_tensor": [5 + rank],
            "reduce_scatter": [10 + 2 * rank],
            "scatter": [rank, 1 + rank],
            "gather": [0, 1, 10, 11] if rank == 0 else [],
            "all_to_all_single": [rank, 10 + rank],
            "send": [0, 1],
        }


def test_the_host_does_not_wait_for_a_collective() -> None:
    assert run_ranks(rank_programs.asynchronous, 2) == [[False, False, True]] * 2


def test_a_result_has_to_be_waited_for() -> None:
    for races in run_ranks(rank_programs.unwaited, 2):
        assert any("(ALLREDUCE)" in race for race in races)


def test_a_group_may_be_destroyed_before_its_collectives_have_run() -> None:
    assert run_ranks(rank_programs.destroyed, 2) == [[2, 2]] * 2


def test_memory_in_a_collective_is_not_handed_out_again() -> None:
    assert run_ranks(rank_programs.dropped, 2) == [False, False]
