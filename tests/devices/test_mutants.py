"""Each test is needed and each line too: with the line broken its test fails, and so do the random schedules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncckpt.errors import AsyncCkptError
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing import simacc
from tests.simacc import test_upstream

from . import mutations as m
from . import (
    schedules,
    test_arena,
    test_blocking,
    test_faults,
    test_forms,
    test_offloaded,
    test_order,
    test_restoring,
    test_shards,
    test_training,
)
from .mutations import Mutation, Patch

Test = Callable[[Patch, Path], object]


def plain(test: Callable[..., object], *arguments: Any) -> Test:
    """One with these arguments."""
    return lambda patch, folder: test(*arguments)


def patched(test: Callable[..., object], *arguments: Any) -> Test:
    """One that patches."""
    return lambda patch, folder: test(*arguments, monkeypatch=patch)


def in_folder(test: Callable[..., object]) -> Test:
    """One that patches, and has a folder."""
    return lambda patch, folder: test(tmp_path=folder, monkeypatch=patch)


def restoring(test: Callable[..., object]) -> Test:
    """One that restores, from a store in memory."""

    def run(patch: Patch, folder: Path) -> None:
        test_restoring.small(patch)
        store = MemoryStorage("mutant")
        test(lambda: store)

    return run


GATHERED, IN_ORDER = 1 << 20, 0
WHOLE, IN_PIECES = (32 << 20, 1 << 20), (4096, 1024)

T1 = plain(test_order.test_T1_copies_wait_for_what_the_training_stream_still_has_to_do)
T1_OWN_STREAM = plain(test_order.test_T1_a_training_may_be_on_a_stream_of_its_own)
T1_OFFLOADED = patched(
    test_offloaded.test_T1_host_memory_that_a_device_writes_is_copied_once_that_is_over_and_the_call_waits_for_nothing,
    "off",
)
T1_OFFLOADED_EAGER = patched(test_offloaded.test_T1_what_is_EAGER_there_is_waited_for_in_the_call)
T2 = plain(test_order.test_T2_a_step_waits_for_the_copies_on_the_device_and_the_host_goes_on, "SGD plain")
T3_STREAM = plain(test_order.test_T3_a_step_on_another_stream_waits_too)
T3_TWO = plain(test_order.test_T3_each_of_two_optimizers_waits_on_the_stream_that_it_steps_on)
T3_CLOSURE = plain(test_order.test_T3_a_step_with_a_closure_waits)
T3_INSIDE = plain(test_order.test_T3_optimizers_that_step_inside_the_backward_pass_wait)
T3_SCALER = plain(test_order.test_T3_accumulation_and_a_scaler)
T3_BY_HAND = plain(test_order.test_T3_tensors_may_be_changed_by_hand_after_before_mutation)
T3_COMPARED = patched(test_order.test_T3_a_step_comes_after_a_comparison_that_was_over_before_it_was_waited_for)
T4_FORWARD = test_order.test_T4_what_the_forward_pass_changes_is_saved_as_it_was
T4_OBSERVERS = test_order.test_T4_observers_and_a_table_that_is_renormalised_are_saved_as_they_were
T5 = plain(test_arena.test_T5_T6_the_writer_reads_what_has_arrived_and_nothing_overwrites_it_before, "wait")
T6 = plain(
    test_arena.test_T6_a_slow_writer_keeps_what_it_reads_and_the_newest_save_takes_the_place_of_the_one_that_waits
)
T6_PROCESS = in_folder(
    test_shards.test_T6_what_a_worker_process_reads_is_not_copied_to_before_it_has_said_that_it_is_done
)
T7_HANDED = test_forms.test_T7_what_is_handed_out_is_there_until_it_is_copied
T7_GIVEN_UP = patched(test_forms.test_T7_memory_that_a_parameter_has_given_up_is_there_until_it_is_copied, 1, 1)
T8 = test_arena.test_T8_a_warm_save_locks_no_memory_takes_none_on_the_device_and_waits_for_nothing
T8_EAGER = patched(test_arena.test_T8_what_is_EAGER_and_too_big_to_be_gathered_is_cut_and_queued_within_a_bound)
T9_FAILS = plain(test_faults.test_T9_a_copy_that_fails_fails_its_save_alone, 1)
T9_LOCKING = plain(test_faults.test_T9_page_locking_that_fails_half_way_is_told_and_copies_to_that_memory_block)
T9_ROOMS = restoring(
    test_restoring.test_T9_rooms_whose_page_locking_fails_half_way_are_told_once_and_fill_the_device_all_the_same
)
T9_GIVEN_UP = patched(test_faults.test_T9_a_save_that_is_given_up_in_mid_copy_copies_no_more_and_the_next_one_is_whole)
T9_WRITER = patched(test_faults.test_T9_a_writer_that_fails_leaves_the_arena_to_the_device_until_its_copies_are_over)
T9_KILLED = in_folder(test_faults.test_T9_a_worker_that_is_killed_in_mid_copy_is_replaced_and_reads_all_of_it)
T9_CLOSING = plain(test_faults.test_T9_closing_waits_for_copies_under_way)
T10 = test_forms.test_T10_every_form_comes_back_bit_for_bit
T11_HUNDRED = plain(test_arena.test_T11_a_hundred_saves_use_one_side_stream)
T11_DEVICES = patched(test_arena.test_T11_a_model_on_two_devices_saved_from_a_thread_whose_device_is_another, 1)
T12_SAVING = plain(test_training.test_T12_training_with_a_save_at_every_step_is_training_without)
T12_RESUMED = plain(test_training.test_T12_a_resumed_training_on_a_device_is_the_one_that_was_not_interrupted)
T14 = in_folder(test_shards.test_T14_a_worker_process_reads_memory_that_a_device_has_written)
MPS = patched(test_blocking.test_mps_has_streams_that_are_not_used)
MPS_ENDED = patched(test_blocking.test_every_copy_has_ended_when_the_call_returns)
T15 = test_arena.test_T15_memory_that_cannot_be_page_locked_is_copied_to_all_the_same


def t10(sizes: tuple[int, int], *, lazy: bool) -> Test:
    return lambda patch, folder: T10(patch, lazy, sizes)


MUTANTS: list[tuple[str, Mutation, Test]] = [
    ("T1", m.no_fence, T1),
    ("T1 own stream", m.no_fence, T1_OWN_STREAM),
    ("T1 offloaded", m.no_fence_on_the_host, T1_OFFLOADED),
    ("T1 offloaded", m.nobody_asks, T1_OFFLOADED),
    ("T1 offloaded eager", m.no_fence_on_the_host, T1_OFFLOADED_EAGER),
    ("T1 own stream", m.fence_of_the_wrong_thread, T1_OWN_STREAM),
    ("T1 own stream", m.gathered_in_the_copiers_own_time, T1_OWN_STREAM),
    ("T2", m.no_hold, T2),
    ("T2", m.nobody_asks, T2),
    ("T3 another stream", m.no_hold, T3_STREAM),
    ("T3 two optimizers", m.held_once, T3_TWO),
    ("T3 closure", m.nobody_asks, T3_CLOSURE),
    ("T3 inside backward", m.nobody_asks, T3_INSIDE),
    ("T3 scaler", m.nobody_asks, T3_SCALER),
    ("T3 by hand", m.nothing_is_guarded, T3_BY_HAND),
    ("T3 compared", m.seen_by_nobody, T3_COMPARED),
    ("T4", m.buffers_are_lazy, patched(T4_FORWARD, GATHERED)),
    ("T4 in order", m.in_order_is_not_held, patched(T4_FORWARD, IN_ORDER)),
    ("T4 observers", m.buffers_are_lazy, patched(T4_OBSERVERS, GATHERED)),
    ("T4 table", m.tables_are_lazy, patched(T4_OBSERVERS, GATHERED)),
    ("T4 observers in order", m.in_order_is_not_held, patched(T4_OBSERVERS, IN_ORDER)),
    ("T5", m.not_waited_for, T5),
    ("T5", m.marked_before_the_copies, T5),
    ("T6", m.free_for_the_next_at_once, T6),
    ("T6", m.given_up_without_a_wait, T6),
    ("T6 process", m.free_for_the_next_at_once, T6_PROCESS),
    ("T6 process", m.free_when_the_worker_begins, T6_PROCESS),
    ("T7 guarded", m.let_go_when_queued, patched(T7_HANDED, "guarded", 1)),
    ("T7 in order", m.in_order_is_not_held, patched(T7_HANDED, "in order", 1)),
    ("T7 given up", m.memory_is_the_parameters_own, T7_GIVEN_UP),
    ("T8", m.waits_in_the_call, plain(T8, "off")),
    ("T8", m.a_scaler_is_asked, plain(T8, "off")),
    ("T8", m.scheduled_anew, plain(T8, "off")),
    ("T8", m.locked_anew, plain(T8, "off")),
    ("T8", m.locks_nothing, plain(T8, "off")),
    ("T8 compared", m.waits_in_the_call, plain(T8, "always")),
    ("T8 compared", m.compared_twice_at_once, plain(T8, "always")),
    ("T8 eager", m.eager_copies_are_queued_whole, T8_EAGER),
    ("T8 eager", m.eager_tensors_are_not_cut, T8_EAGER),
    ("T9", m.failures_pass, T9_FAILS),
    ("T9 locking", m.page_locking_fails_in_silence, T9_LOCKING),
    ("T9 locking", m.locks_nothing, T9_LOCKING),
    ("T9 rooms", m.slowness_is_not_told, T9_ROOMS),
    ("T9 rooms", m.rooms_are_filled_again_at_once, T9_ROOMS),
    ("T9 given up", m.given_up_without_a_wait, T9_GIVEN_UP),
    ("T9 given up", m.copied_to_the_end, T9_GIVEN_UP),
    ("T9 writer", m.free_for_the_next_at_once, T9_WRITER),
    ("T9 killed", m.not_waited_for, T9_KILLED),
    ("T9 closing", m.not_waited_for, T9_CLOSING),
    ("T10", m.bits_of_a_conjugate_are_its_value, t10(WHOLE, lazy=True)),
    ("T10", m.everything_is_row_major, t10(IN_PIECES, lazy=True)),
    ("T10", m.shared_memory_is_copied_for_each_name, t10(WHOLE, lazy=False)),
    ("T10", m.unaligned_scratch, t10(WHOLE, lazy=True)),
    ("T11", m.a_stream_for_each_copy, T11_HUNDRED),
    ("T11", m.the_threads_own_device, T11_DEVICES),
    ("T12", m.saving_draws_random_numbers, T12_SAVING),
    ("T12", m.random_numbers_stay_as_they_are, T12_RESUMED),
    ("T14", m.not_waited_for, T14),
    ("T14", m.locks_nothing, T14),
    ("T14", m.memory_of_the_process_alone, T14),
    ("T15", m.locks_nothing, lambda patch, folder: T15(patch, False)),
    ("T15", m.locks_nothing, lambda patch, folder: T15(patch, True)),
    ("mps", m.mps_is_trusted, MPS),
    ("mps ended", m.mps_is_trusted, MPS_ENDED),
    ("mps ended", m.nothing_blocks, MPS_ENDED),
    ("T17", m.no_fence, plain(test_upstream.test_T17_asyncckpt_saves_what_is_there_after_the_step)),
]


def found(test: Callable[[], object]) -> list[str]:
    """How a test fails: by what it says, or by the races that it leaves."""
    wrong: list[str] = []
    try:
        test()
    except (AssertionError, AsyncCkptError) as error:
        wrong.append(repr(error))
    simacc.release_all()
    torch.accelerator.synchronize()
    wrong += simacc.races()
    print("\n".join(wrong))
    return wrong


@pytest.mark.kills
@pytest.mark.parametrize(
    ("mutate", "test"),
    [(mutate, test) for _, mutate, test in MUTANTS],
    ids=[f"{t} {n.__name__}" for t, n, _ in MUTANTS],
)
def test_a_mutant_fails_its_test(mutate: Mutation, test: Test, monkeypatch: Patch, tmp_path: Path) -> None:
    mutate(monkeypatch)
    assert found(lambda: test(monkeypatch, tmp_path)) != []


@pytest.mark.long
@pytest.mark.parametrize(
    "mutate",
    [
        m.no_fence,
        m.no_hold,
        m.buffers_are_lazy,
        m.not_waited_for,
        m.let_go_when_queued,
        m.in_order_is_not_held,
    ],
)
def test_T16_a_mutant_fails_one_of_forty_schedules(mutate: Mutation, monkeypatch: Patch) -> None:
    # Not free_for_the_next_at_once: a worker is done with states of this size before the next save asks for an arena.
    # T6 and T9, which hold the worker up, are what fails of it.
    mutate(monkeypatch)
    assert any(schedules.trouble(seed, monkeypatch) for seed in range(40))
