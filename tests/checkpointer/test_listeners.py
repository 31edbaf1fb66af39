"""Listeners: told of everything in order, and never able to harm a save."""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, MetricsConfig, RetentionPolicy, SaveHandle, SavePolicy, events
from asyncckpt.errors import CheckpointNotFoundError, SaveFailed, StorageDenied
from asyncckpt.events import (
    Amended,
    Deleted,
    Durable,
    Event,
    Failed,
    Leftover,
    Listener,
    Pruned,
    Restored,
    RestoreFailed,
    Resumed,
    Retained,
    Skipped,
    Staged,
    Stalled,
    Superseded,
    Swept,
    Weighed,
    WorkerRuns,
)
from asyncckpt.metrics.exporter import _HANDLERS
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Recorder, Toy, Training, saved, steps

pytestmark = pytest.mark.executors


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


def test_what_follows_a_commit_comes_in_order(make: Make, recorder: Recorder) -> None:
    toy = Toy()
    ckpt = make(model=toy, keep=RetentionPolicy(last=1))
    for step in (1, 2, 3):
        toy.value = step
        ckpt.save(step).wait()
    ckpt.wait()
    after = [event for event in recorder.events if isinstance(event, Durable | Pruned | Retained | Deleted)]
    kinds = [type(event) for event in after if not isinstance(event, Deleted)]
    assert kinds == [Durable, Retained, Durable, Pruned, Retained, Durable, Pruned, Retained]
    assert [event.checkpoints for event in recorder.of(Retained)] == [1, 1, 1]
    first = next(event for event in recorder.of(Deleted) if event.bytes)
    assert after.index(first) > after.index(recorder.of(Pruned)[0])
    assert first.bytes == recorder.of(Durable)[0].written
    assert first.objects >= 3  # a pack, its manifest, its record


def test_a_save_tells_how_long_each_phase_took(make: Make, recorder: Recorder) -> None:
    make(model=Toy()).save(1).wait()
    (durable,) = recorder.of(Durable)
    assert list(durable.phases) == ["open", "write", "stage", "report", "commit"]
    assert all(seconds >= 0 for seconds in durable.phases.values())


def test_a_restore_tells_how_it_ended_and_a_resume_from_where_training_goes_on(
    tmp_path: Path, make: Make, recorder: Recorder
) -> None:
    saved(tmp_path / "run", 1, 2)
    ckpt = make(tmp_path / "run", model=Toy())
    state = ckpt.resume()
    found = [type(event) for event in recorder.events if not isinstance(event, Swept | WorkerRuns)]
    assert found == [Restored, Retained, Resumed]
    assert recorder.of(Resumed) == [Resumed(2, 2, state.timestamp)]
    with pytest.raises(CheckpointNotFoundError) as raised:
        ckpt.restore(7)
    assert [event.error for event in recorder.of(RestoreFailed)] == [raised.value]
    ckpt.restore(1)
    assert [event.step for event in recorder.of(Restored)] == [2, 1]
    assert len(recorder.of(Resumed)) == 1


@pytest.mark.executors("thread")
def test_listeners_are_told_in_the_order_in_which_they_were_given_and_the_metrics_last(store: GatedStorage) -> None:
    told: list[tuple[str, float | None]] = []
    registry = CollectorRegistry()

    class Notes:
        def __init__(self, name: str) -> None:
            self.name = name

        def on_event(self, event: Event) -> None:
            if isinstance(event, Durable):
                told.append((self.name, registry.get_sample_value("asyncckpt_durable_step")))

    config = MetricsConfig(port=None, registry=registry)
    with AsyncCheckpointer(store, model=Toy(), listeners=[Notes("one"), Notes("two")], metrics=config) as ckpt:
        ckpt.save(3).wait()
        assert registry.get_sample_value("asyncckpt_durable_step") == 3
    assert told == [("one", 0), ("two", 0)]


def test_every_event_is_counted_or_known_to_be_none_of_the_metrics() -> None:
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)}
    assert kinds - set(_HANDLERS) == {Event, Swept, Amended, Weighed}


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
    assert {(type(event.error), str(event.error)) for event in leftovers} == {(StorageDenied, str(denied))}


def test_a_listener_is_anything_with_on_event(recorder: Recorder) -> None:
    assert isinstance(recorder, Listener)
    assert not isinstance(object(), Listener)
