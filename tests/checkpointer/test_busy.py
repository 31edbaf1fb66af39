"""P5 and P6: what happens to saves while the store is slow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asyncckpt import RetentionPolicy, SavePolicy, load
from asyncckpt.errors import SaveSkipped, SaveSuperseded
from asyncckpt.events import Durable, Event, Fallback, Skipped, Superseded
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import ONE_GENERATION, Recorder, Toy, Training, once_it_waits, steps

pytestmark = pytest.mark.executors

EVERY_STEP = SavePolicy(every_steps=1)


def test_P5_steps_and_saves_go_on_while_nothing_can_be_written(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=EVERY_STEP)
    with store.hold("put"):
        for step in range(1, 31):
            training.step()
            ckpt.step(step)
        assert steps(ckpt) == []
    ckpt.wait()
    assert steps(ckpt)[-1] == 30


def test_P6_coalesce_replaces_the_staged_snapshot_by_the_newer_one(
    make: Make, store: GatedStorage, recorder: Recorder, outcomes: Callable[[str], float]
) -> None:
    toy = Toy()
    ckpt = make(model=toy, save=EVERY_STEP)
    with store.hold("put", "data/*") as gate:
        first = ckpt.step(1)
        gate.wait_reached()
        toy.value = 2
        second = ckpt.step(2)
        toy.value = 3
        third = ckpt.step(3)
        with pytest.raises(SaveSuperseded, match="step 2 was replaced by the one of step 3 before"):
            second.wait()
    toy.value = 4
    ckpt.wait()
    assert [handle.status for handle in (first, second, third)] == ["durable", "superseded", "durable"]
    with pytest.raises(SaveSuperseded, match=rf"step 2 was replaced by the one of step 3 \(id {third.id}\) before"):
        second.wait()
    assert recorder.of(Superseded) == [Superseded(2, by_step=3)]
    assert outcomes("superseded") == 1
    assert steps(ckpt) == [1, 3]
    assert load(store).state["model"]["weight"].unique().tolist() == [3]


def test_P6_coalesce_takes_back_a_job_that_was_handed_over_a_moment_ago(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), save=EVERY_STEP)
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        gate.wait_reached()
        handles = [ckpt.step(step) for step in range(2, 102)]
    ckpt.wait()
    assert [handle.status for handle in handles] == ["superseded"] * 99 + ["durable"]
    with pytest.raises(SaveSuperseded, match=rf"step 2 was replaced by the one of step 101 \(id {handles[-1].id}\)"):
        handles[0].wait()


def test_P6_wait_holds_the_step_until_a_generation_is_free(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=EVERY_STEP, on_busy="wait", verify="always")
    with store.hold("put", "data/*") as gate:
        handles = [ckpt.step(1), ckpt.step(2)]
        once_it_waits("lease", gate.open)
        handles.append(ckpt.step(3))
        assert gate.is_open
    assert [handle.wait().step for handle in handles] == [1, 2, 3]


def test_P6_skip_takes_no_snapshot(
    make: Make, store: GatedStorage, recorder: Recorder, outcomes: Callable[[str], float]
) -> None:
    ckpt = make(model=Toy(), save=EVERY_STEP, on_busy="skip")
    with store.hold("put", "data/*") as gate:
        handles = [ckpt.step(1)]
        gate.wait_reached()
        handles += [ckpt.step(2), ckpt.step(3)]
        assert handles[2].done()
    ckpt.wait()
    assert [handle.status for handle in handles] == ["durable", "durable", "skipped"]
    with pytest.raises(SaveSkipped, match=r"step 3 was skipped: .*; the newest under way is that of step 2$"):
        handles[2].wait()
    assert recorder.of(Skipped) == [Skipped(3)]
    assert outcomes("skipped") == 1
    assert steps(ckpt) == [1, 2]


def test_P6_an_explicit_save_waits_for_a_generation_and_is_never_skipped(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=EVERY_STEP, on_busy="skip", verify="always")
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        ckpt.step(2)
        once_it_waits("lease", gate.open)
        assert ckpt.save(3).wait().step == 3


@pytest.mark.parametrize("explicit", [{}, {"on_busy": "wait"}, {"on_busy": "skip"}], ids=str)
def test_P6_coalesce_never_replaces_an_explicit_save_but_skips_itself(
    make: Make, store: GatedStorage, explicit: dict[str, str]
) -> None:
    ckpt = make(model=Toy(), save=EVERY_STEP)
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        gate.wait_reached()
        asked = ckpt.save(2, **explicit)
        assert ckpt.step(3).status == "skipped"
    assert asked.wait().step == 2


def test_P6_an_explicit_save_is_replaceable_and_replaces_where_it_was_asked_to(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), save=EVERY_STEP)
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        gate.wait_reached()
        handles = [ckpt.step(2), ckpt.save(3, on_busy="coalesce"), ckpt.step(4)]
        skipped = ckpt.save(5, on_busy="skip")
        assert skipped.status == "skipped"
    ckpt.wait()
    assert [handle.status for handle in handles] == ["superseded", "superseded", "durable"]


def test_P6_a_budget_for_one_generation_is_an_event_and_coalesce_skips(
    make: Make, store: GatedStorage, recorder: Recorder
) -> None:
    toy = Toy()
    ckpt = make(model=toy, save=EVERY_STEP, budget=ONE_GENERATION)
    with store.hold("put", "data/*") as gate:
        first = ckpt.step(1)
        gate.wait_reached()
        assert first.id  # a worker process has said that it is begun
        second = ckpt.step(2)
        assert second.status == "skipped"
    ckpt.wait()
    with pytest.raises(SaveSkipped, match=r"the newest under way is that of step 1 \(id 00000001\)$"):
        second.wait()
    assert ckpt.step(3).wait().step == 3
    (fallback,) = [event for event in recorder.of(Fallback) if event.feature == "generations"]
    assert f"budget={ONE_GENERATION:,}" in fallback.reason


def test_P6_everything_of_a_save_is_stored_before_anything_of_the_next(make: Make, store: GatedStorage) -> None:
    toy, handles = Toy(), []
    ckpt = make(model=toy, generations=4)
    with store.hold("put", "data/*") as gate:
        for step in (1, 2, 3, 4):
            toy.value = step
            handles.append(ckpt.save(step))
        gate.wait_reached()
    assert [handle.wait().seq for handle in handles] == [1, 2, 3, 4]
    puts = [key for request, key in store.calls if request == "put" and key.startswith(("data/", "commits/"))]
    kinds = [key.split("-")[0] if key.startswith("data/") else key for key in puts]
    records = [f"commits/{slot:010d}.json" for slot in range(1, 6)]
    expected = [records[0]]
    for seq in (1, 2, 3, 4):
        expected += [f"data/{seq:08d}", f"data/{seq:08d}", records[seq]]
    assert kinds == expected


def test_P6_latest_never_goes_back(make: Make, store: GatedStorage, recorder: Recorder) -> None:
    seen: list[int] = []

    class Looks:
        def on_event(self, event: Event) -> None:
            if isinstance(event, Durable):
                seen.append(load(store).info.step)

    ckpt = make(model=Toy(), save=EVERY_STEP, keep=RetentionPolicy(last=2), listeners=[recorder, Looks()])
    for step in range(1, 21):
        ckpt.step(step)
    ckpt.wait()
    ckpt.close()
    assert seen == sorted(seen)
    told = [event.step for event in recorder.of(Durable)]
    # A worker process may have committed the next by the time that this one hears of the last.
    assert all(latest >= step for latest, step in zip(seen, told, strict=True))
    assert seen[-1] == 20
