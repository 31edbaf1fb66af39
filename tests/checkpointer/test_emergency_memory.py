"""An emergency that needs the memory of a save that hangs: that gives way, whoever carries it out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asyncckpt.errors import SaveSuperseded
from asyncckpt.preemption import plan
from asyncckpt.preemption.speed import Speed
from asyncckpt.saves.handle import SaveHandle
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Toy, steps

pytestmark = pytest.mark.executors


@pytest.mark.parametrize("is_heard", [True, False])
def test_with_one_generation_a_save_that_hangs_gives_its_memory_to_an_emergency(
    make: Make,
    store: GatedStorage,
    outcomes: Callable[[str], float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_heard: bool,
) -> None:
    """`is_heard`: that the worker has begun it, before the emergency; the worker says so while it goes on."""
    monkeypatch.setattr(plan, "LEAST", 0.0)
    model = Toy(1)
    ckpt = make(model=model, generations=1)
    ckpt.save(1).wait()
    ckpt._stopping._speedometer._recent.extend([Speed(1e12)] * 4)
    model.value = 2
    if not is_heard:
        monkeypatch.setattr(SaveHandle, "_began", lambda self, seq: None)
    with store.hold("put", "data/*-step-2-*") as gate:
        second = ckpt.save(2)
        gate.wait_reached()
        if is_heard:
            assert second.id == "00000002"
        model.value = 3
        assert ckpt.save(3, emergency=True).wait(60).step == 3
        with pytest.raises(SaveSuperseded, match="step 3"):
            second.wait(60)
    assert outcomes("superseded") == 1
    assert "step 3 has waited for memory for as long as there was time" in caplog.text
    ckpt.close()
    found = Toy()
    ckpt = make(model=found)
    assert steps(ckpt) == [1, 3]
    assert ckpt.resume().step == found.value == 3
