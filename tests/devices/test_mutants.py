"""Each test is needed and each line too: with the line broken, its test fails. And so do the random schedules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncckpt.errors import AsyncCkptError
from asyncckpt.testing import simacc

from . import mutations, test_arena, test_faults, test_forms, test_order, test_shards, test_training
from .mutations import Mutation, Patch

Test = Callable[[Patch, Path], object]


def given(test: Callable[..., object], *arguments: Any) -> Test:
    return lambda patch, folder: test(*arguments)


def patched(test: Callable[..., object], *arguments: Any) -> Test:
    return lambda patch, folder: test(*arguments, patch)


def in_folder(test: Callable[..., object]) -> Test:
    return lambda patch, folder: test(folder, patch)


m = mutations
T6_SLOW = given(
    test_arena.test_T6_a_slow_writer_keeps_what_it_reads_and_the_newest_save_takes_the_place_of_the_one_that_waits
)
T8 = partial(given, test_arena.test_T8_a_warm_save_locks_no_memory_takes_none_on_the_device_and_waits_for_nothing)
T10 = test_forms.test_T10_every_form_comes_back_bit_for_bit
T11_DEVICES = given(test_arena.test_T11_a_model_on_two_devices_saved_from_a_thread_whose_device_is_another)
T15 = test_arena.test_T15_memory_that_cannot_be_page_locked_is_copied_to_all_the_same

MUTANTS: list[tuple[str, Mutation, Test]] = [
    ("T1", m.no_fence, given(test_order.test_T1_copies_wait_for_what_the_training_stream_still_has_to_do)),
    ("T2", m.no_hold, given(test_order.test_T2_a_step_waits_for_the_copies_on_the_device_and_the_host_goes_on, "sgd")),
    (
        "T2",
        m.nobody_asks,
        given(test_order.test_T2_a_step_waits_for_the_copies_on_the_device_and_the_host_goes_on, "sgd"),
    ),
    ("T3", m.no_hold, given(test_order.test_T3_a_step_on_another_stream_waits_too)),
    ("T3", m.held_once, given(test_order.test_T3_each_of_two_optimizers_waits_on_the_stream_that_it_steps_on)),
    ("T3", m.nobody_asks, given(test_order.test_T3_a_step_with_a_closure_waits)),
    ("T3", m.nobody_asks, given(test_order.test_T3_optimizers_that_step_inside_the_backward_pass_wait)),
    ("T3", m.nobody_asks, given(test_order.test_T3_accumulation_and_a_scaler)),
    ("T3", m.nothing_is_guarded, given(test_order.test_T3_tensors_may_be_changed_by_hand_after_before_mutation)),
    ("T4", m.buffers_are_lazy, patched(test_order.test_T4_what_the_forward_pass_changes_is_saved_as_it_was, 1 << 20)),
    ("T4", m.in_order_is_not_held, patched(test_order.test_T4_what_the_forward_pass_changes_is_saved_as_it_was, 0)),
    (
        "T4",
        m.buffers_are_lazy,
        patched(test_order.test_T4_observers_and_a_table_that_is_renormalised_are_saved_as_they_were, 1 << 20),
    ),
    (
        "T4",
        m.tables_are_lazy,
        patched(test_order.test_T4_observers_and_a_table_that_is_renormalised_are_saved_as_they_were, 1 << 20),
    ),
    (
        "T4",
        m.in_order_is_not_held,
        patched(test_order.test_T4_observers_and_a_table_that_is_renormalised_are_saved_as_they_were, 0),
    ),
    (
        "T5",
        m.not_waited_for,
        given(test_arena.test_T5_T6_the_writer_reads_what_has_arrived_and_nothing_overwrites_it_before, "wait"),
    ),
    (
        "T5",
        m.marked_before_the_copies,
        given(test_arena.test_T5_T6_the_writer_reads_what_has_arrived_and_nothing_overwrites_it_before, "wait"),
    ),
    ("T6", m.free_for_the_next_at_once, T6_SLOW),
    ("T6", m.given_up_without_a_wait, T6_SLOW),
    (
        "T7",
        m.let_go_when_queued,
        patched(test_forms.test_T7_what_is_handed_out_is_there_until_it_is_copied, "guarded", 1),
    ),
    (
        "T7",
        m.in_order_is_not_held,
        patched(test_forms.test_T7_what_is_handed_out_is_there_until_it_is_copied, "in order", 1),
    ),
    (
        "T7",
        m.memory_is_the_parameters_own,
        patched(test_forms.test_T7_memory_that_a_parameter_has_given_up_is_there_until_it_is_copied, 1, 1),
    ),
    ("T8", m.waits_in_the_call, T8("off")),
    ("T8", m.scheduled_anew, T8("off")),
    ("T8", m.locked_anew, T8("off")),
    ("T8", m.locks_nothing, T8("off")),
    ("T9", m.failures_pass, given(test_faults.test_T9_a_copy_that_fails_fails_its_save_alone, 1)),
    (
        "T9",
        m.given_up_without_a_wait,
        patched(test_faults.test_T9_a_save_that_is_given_up_in_mid_copy_copies_no_more_and_the_next_one_is_whole),
    ),
    (
        "T9",
        m.free_for_the_next_at_once,
        patched(test_faults.test_T9_a_writer_that_fails_leaves_the_arena_to_the_device_until_its_copies_are_over),
    ),
    ("T9", m.not_waited_for, given(test_faults.test_T9_closing_waits_for_copies_under_way)),
    (
        "T9",
        m.not_waited_for,
        in_folder(test_faults.test_T9_a_worker_that_is_killed_in_mid_copy_is_replaced_and_reads_all_of_it),
    ),
    ("T10", m.bits_of_a_conjugate_are_its_value, lambda patch, folder: T10(patch, True, (32 << 20, 1 << 20))),
    ("T10", m.everything_is_row_major, lambda patch, folder: T10(patch, True, (4096, 1024))),
    ("T10", m.shared_memory_is_copied_for_each_name, lambda patch, folder: T10(patch, False, (32 << 20, 1 << 20))),
    ("T10", m.unaligned_scratch, lambda patch, folder: T10(patch, True, (32 << 20, 1 << 20))),
    ("T11", m.a_stream_for_each_copy, given(test_arena.test_T11_a_hundred_saves_use_one_side_stream)),
    ("T11", m.the_threads_own_device, T11_DEVICES),
    (
        "T12",
        m.saving_draws_random_numbers,
        given(test_training.test_T12_training_with_a_save_at_every_step_is_training_without),
    ),
    (
        "T12",
        m.random_numbers_stay_as_they_are,
        given(test_training.test_T12_a_resumed_training_on_a_device_is_the_one_that_was_not_interrupted),
    ),
    (
        "T14",
        m.not_waited_for,
        lambda patch, folder: test_shards.test_T14_a_worker_process_reads_memory_that_a_device_has_written(
            folder, patch
        ),
    ),
    (
        "T14",
        m.locks_nothing,
        lambda patch, folder: test_shards.test_T14_a_worker_process_reads_memory_that_a_device_has_written(
            folder, patch
        ),
    ),
    (
        "T14",
        m.memory_of_the_process_alone,
        lambda patch, folder: test_shards.test_T14_a_worker_process_reads_memory_that_a_device_has_written(
            folder, patch
        ),
    ),
    ("T15", m.locks_nothing, lambda patch, folder: T15(patch, False)),
    ("T15", m.locks_nothing, lambda patch, folder: T15(patch, True)),
]


def found(test: Callable[[], object]) -> list[str]:
    """How a test fails: by what it says, or by the races that it leaves."""
    wrong: list[str] = []
    try:
        test()
    except (AssertionError, AsyncCkptError, RuntimeError) as error:
        wrong.append(repr(error))
    simacc.release_all()
    torch.accelerator.synchronize()
    return wrong + simacc.races()


@pytest.mark.parametrize(
    ("mutate", "test"), [it[1:] for it in MUTANTS], ids=[f"{it[0]}-{it[1].__name__}" for it in MUTANTS]
)
def test_a_mutant_fails_its_test(mutate: Mutation, test: Test, monkeypatch: Patch, tmp_path: Path) -> None:
    mutate(monkeypatch)
    assert found(lambda: test(monkeypatch, tmp_path)) != []
