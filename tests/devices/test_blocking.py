"""A device whose asynchronous copies cannot be trusted (mps) is copied from, and to, by copies that block.

The simulated device takes its place: in the table of those that are not trusted it stands where mps does.
"""

from __future__ import annotations

import pytest
import torch

from asyncckpt.staging import streams
from asyncckpt.testing import simacc

from .trainings import Told, Training, differing, steps_beside_saves


def in_place_of_mps(patch: pytest.MonkeyPatch) -> None:
    """Treat the simulated device as mps is; a copy that does not block is late, as there it may be wrong."""
    untrusted = tuple("sim" if kind == "mps" else kind for kind in streams._UNTRUSTED)
    patch.setattr(streams, "_UNTRUSTED", untrusted)
    simacc.configure(pageable_async=True, copy_latency=0.0005)


def test_mps_has_streams_that_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert not streams.has_streams("mps")


def test_every_copy_has_ended_when_the_call_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_mps(monkeypatch)
    told, training = Told(), Training()
    with training.checkpointer(verify="off", listeners=[told]) as checkpointer:
        steps_beside_saves(training, checkpointer)
    assert training.store.declared > 0
    counts = simacc.stats()
    assert counts.get("d2h_pageable", 0) > 0
    assert counts.get("d2h_pinned", 0) == counts.get("host_registers", 0) == 0
    assert told.fallbacks() == {}, "that is how it is done there"


def test_what_was_saved_so_comes_back_so(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_mps(monkeypatch)
    before = Training()
    with before.checkpointer() as checkpointer:
        checkpointer.save(1).wait()
    training = Training()
    training.store = before.store
    training.step()
    with training.checkpointer() as checkpointer:
        assert checkpointer.resume() is not None
        assert differing(training.state(), before.state()) == []
