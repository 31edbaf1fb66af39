"""Emergency saves by way of the worker process: what it writes is given up, and nothing is lost on the way."""

from __future__ import annotations

import pytest

from asyncckpt.errors import SaveSuperseded
from asyncckpt.events import Durable, Failed, Superseded
from asyncckpt.preemption.speed import Speed
from asyncckpt.testing.shared import SharedGates

from ..checkpointer.trainings import Recorder, Toy, steps
from .conftest import Make


def test_the_worker_gives_up_what_it_writes_for_an_emergency(
    make: Make, store: SharedGates, recorder: Recorder
) -> None:
    ckpt = make(model=Toy(3))
    ckpt.save(1).wait()
    ckpt._stopping._speedometer._recent.extend([Speed(sum(ckpt._saver.sizes().values()) / 40)] * 4)
    with store.hold("put", "data/00000002*"):
        second = ckpt.save(2)
        assert second.id == "00000002"
        third = ckpt.save(3, emergency=True, deadline=60)
        assert third.wait().step == 3
        with pytest.raises(SaveSuperseded, match="step 3"):
            second.wait()
    assert steps(ckpt) == [1, 3]
    assert [event.step for event in recorder.of(Superseded)] == [2]
    assert [event.step for event in recorder.of(Durable)] == [1, 3]
    assert recorder.of(Failed) == []


def test_a_partial_one_comes_through_as_that(make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncckpt.preemption.plan.FEW", 0)
    ckpt = make(model=Toy(3), extra={"toy": Toy(4)})
    ckpt.save(1).wait()
    ckpt._stopping._speedometer._recent.extend([Speed(sum(ckpt._saver.sizes().values()) / 40)] * 4)
    info = ckpt.save(2, emergency=True, deadline=5).wait()
    assert info.partial
    assert "extra" in recorder.of(Durable)[-1].partial
    assert ckpt.latest().step == 1
