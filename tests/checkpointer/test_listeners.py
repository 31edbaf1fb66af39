"""Listeners: told of everything in order, and never able to harm a save."""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading

import pytest

from asyncckpt import RetentionPolicy, SaveHandle, SavePolicy
from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.events import (
    Durable,
    Event,
    Failed,
    Leftover,
    Listener,
    Pruned,
    Restored,
    Skipped,
    Staged,
    Stalled,
    Superseded,
)
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Recorder, Toy, Training, steps


class Raises:
    def on_event(self, event: Event) -> None:
        raise RuntimeError(f"on {type(event).__name__}")


def test_a_listener_that_raises_is_logged_and_harms_neither_saves_nor_the_next_listener(
    make: Make, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, listeners=[Raises(), recorder, Raises()])
    for step in (1, 2, 3):
        training.step()
        ckpt.save(step).wait()
    ckpt.restore("latest")
    ckpt.close()
    assert [event.step for event in recorder.of(Durable)] == [1, 2, 3]
    assert {type(event) for event in recorder.events} >= {Durable, Staged, Stalled, Restored}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2 * len(recorder.events)
    assert "on Durable" in caplog.text


def test_events_of_one_save_come_in_order_and_exactly_once(make: Make, store: GatedStorage, recorder: Recorder) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1), keep=RetentionPolicy(last=1))
    store.fail("put", "data/*-step-5-*", lambda: StorageDenied(28, "No space left on device"))
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        gate.wait_reached()
        ckpt.step(2)
        ckpt.step(3)
        ckpt.save(4, on_busy="skip")
    ckpt.wait()
    with pytest.raises(SaveFailed):
        ckpt.save(5).wait()
    ckpt.close()
    ends = {
        step: [
            e
            for e in recorder.events
            if isinstance(e, Staged | Durable | Failed | Skipped | Superseded) and e.step == step
        ]
        for step in range(1, 6)
    }
    kinds = {step: [type(event) for event in events if not isinstance(event, Staged)] for step, events in ends.items()}
    assert kinds == {1: [Durable], 2: [Superseded], 3: [Durable], 4: [Skipped], 5: [Failed]}
    assert [type(event) for event in ends[1]] == [Staged, Durable]
    assert [type(event) for event in ends[4]] == [Skipped]
    assert [(event.step, event.reason) for event in recorder.of(Pruned)] == [(1, "no rule keeps it: last 1")]


def test_a_save_is_told_before_its_handle_ends(make: Make, recorder: Recorder) -> None:
    ckpt = make(model=Toy())
    for step in range(1, 20):
        ckpt.save(step).wait()
        assert recorder.of(Durable)[-1].step == step


def test_what_an_event_says(make: Make, recorder: Recorder) -> None:
    ckpt = make(model=Toy())
    info = ckpt.save(7, metrics={"loss": 0.5}).wait()
    ckpt.restore(7)
    ckpt.close()
    (durable,) = recorder.of(Durable)
    assert (durable.step, durable.seq, durable.bytes, durable.metrics) == (7, info.seq, info.size, {"loss": 0.5})
    assert durable.seconds > 0
    assert durable.created >= info.created
    (staged,) = recorder.of(Staged)
    assert staged.bytes >= info.size
    (restored,) = recorder.of(Restored)
    assert (restored.step, restored.seq, restored.bytes) == (7, info.seq, info.size)
    assert [event.where for event in recorder.of(Stalled)][:1] == ["call"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        durable.step = 8


def test_events_come_from_other_threads_except_what_the_call_itself_finds(make: Make, store: GatedStorage) -> None:
    threads: dict[type[Event], set[bool]] = {}

    class Notes:
        def on_event(self, event: Event) -> None:
            threads.setdefault(type(event), set()).add(threading.current_thread() is threading.main_thread())

    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1), on_busy="skip", listeners=[Notes()])
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        gate.wait_reached()
        ckpt.step(2)
        ckpt.step(3)
    ckpt.close()
    assert threads[Durable] == threads[Staged] == {False}
    assert threads[Skipped] == threads[Stalled] == {True}


def test_a_listener_may_ask_the_handle_of_what_it_is_told(make: Make) -> None:
    asked: list[str] = []
    handles: queue.SimpleQueue[SaveHandle] = queue.SimpleQueue()

    class Asks:
        def on_event(self, event: Event) -> None:
            if isinstance(event, Durable):
                handle = handles.get()
                asked.append(f"{handle.id} {handle.step} {event.step}")

    ckpt = make(model=Toy(), listeners=[Asks()])
    for step in (5, 6):
        handles.put(ckpt.save(step))
    ckpt.wait()
    assert asked == ["00000001 5 5", "00000002 6 6"]


def test_what_fails_after_the_commit_is_an_event_and_no_failure(
    make: Make, store: GatedStorage, recorder: Recorder
) -> None:
    ckpt = make(model=Toy(), keep=RetentionPolicy(last=1))
    denied = StorageDenied(13, "Permission denied")
    store.fail("put", "latest", lambda: denied)
    store.fail("delete", "data/*", lambda: denied)
    for step in (1, 2, 3):
        assert ckpt.save(step).wait().step == step
    ckpt.close()
    assert steps(make(model=Toy())) == [3]
    leftovers = recorder.of(Leftover)
    assert {event.what for event in leftovers} == {"the hints latest and best", "deletion of dropped checkpoints"}
    assert {event.error for event in leftovers} == {denied}


def test_a_listener_is_anything_with_on_event(recorder: Recorder) -> None:
    assert isinstance(recorder, Listener)
    assert not isinstance(object(), Listener)
