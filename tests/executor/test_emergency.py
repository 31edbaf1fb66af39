"""Emergency saves by way of the worker process: what it writes is given up, and nothing is lost on the way."""

from __future__ import annotations

import pytest

from asyncckpt.errors import SaveSuperseded
from asyncckpt.events import Durable, Failed, Superseded
from asyncckpt.preemption.speed import Speed
from asyncckpt.testing.shared import SharedGates

from ..checkpointer.trainings import Recorder, Toy, steps
from .conftest import Make


@pytest.mark.parametrize("what", ["*.safetensors", "manifest.json"])
def test_the_worker_gives_up_what_it_writes_for_an_emergency(
    make: Make, store: SharedGates, recorder: Recorder, what: str
) -> None:
    toy = Toy(3)
    ckpt = make(model=toy)
    ckpt.save(1).wait()
    toy.value = 4
    ckpt._stopping._speedometer._recent.extend([Speed(sum(ckpt._saver.sizes().values()) / 40)] * 4)
    with store.hold("put", f"data/00000002-*/{what}") as gate:
        second = ckpt.save(2)
        gate.wait_reached()
        third = ckpt.save(3, emergency=True, deadline=60)
        assert third.wait().step == 3
        with pytest.raises(SaveSuperseded, match="step 3"):
            second.wait()
    assert steps(ckpt) == [1, 3]
    assert [event.step for event in recorder.of(Superseded)] == [2]
    assert [event.step for event in recorder.of(Durable)] == [1, 3]
    assert recorder.of(Failed) == []


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_save_is_given_up_also_before_anything_of_it_is_written(
    make: Make, store: SharedGates, recorder: Recorder, executor: str
) -> None:
    ckpt = make(model=Toy(3), executor=executor)
    ckpt._stopping._speedometer._recent.extend([Speed(sum(ckpt._saver.sizes().values()) / 40)] * 4)
    with store.hold("put", "commits/*") as gate:
        first = ckpt.save(1)
        gate.wait_reached()  # the worker takes the run: it has begun the save, and has not said so
        second = ckpt.save(2, emergency=True, deadline=60)
    assert second.wait().step == 2
    with pytest.raises(SaveSuperseded, match="step 2"):
        first.wait()
    assert steps(ckpt) == [2]
    assert store.count("put", "data/*-step-1-*") == 0
    assert recorder.of(Failed) == []


def test_a_partial_one_comes_through_as_that(make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncckpt.preemption.plan.FEW", 0)
    ckpt = make(model=Toy(3), extra={"toy": Toy(4)})
    ckpt.save(1).wait()
    ckpt._stopping._speedometer._recent.extend([Speed(sum(ckpt._saver.sizes().values()) / 40)] * 4)
    info = ckpt.save(2, emergency=True, deadline=30).wait()  # a half takes 20 s
    assert info.partial
    assert "extra" in recorder.of(Durable)[-1].partial
    assert ckpt.latest().step == 1
