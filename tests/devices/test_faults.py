"""What goes wrong on a device fails one save and nothing else; a graph that is being captured is left alone."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import asyncckpt
from asyncckpt import AsyncCheckpointer, SaveHandle
from asyncckpt.errors import SaveFailed, StorageError, TornSnapshot, UnsupportedState
from asyncckpt.staging import backlog, lane, pieces, pinning, streams
from asyncckpt.staging.snapshot import Snapshot
from asyncckpt.testing import simacc
from asyncckpt.testing.slow import PATIENCE, GatedStorage
from asyncckpt.worker import pipeline

from ..checkpointer.trainings import worker_of
from .declaring import Declaring
from .trainings import Told, Training, differing, side, tensors


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_T9_a_copy_that_fails_fails_its_save_alone(after: int) -> None:
    training = Training(torch.optim.SGD, momentum=0.9)
    with training.checkpointer(verify="off", generations=1) as checkpointer:
        checkpointer.save(1).wait()
        simacc.configure(fail_copy_after=after)
        failed = 0
        for step in range(2, 7):
            wanted = training.state() if failed else None
            handle = checkpointer.save(step)
            training.step()
            if not failed and (reason := reason_of(handle)):
                failed += 1
                assert "inject" in reason
            elif wanted is not None:
                handle.wait()
                assert differing(training.saved(), wanted) == []
        assert failed == 1
        assert checkpointer.save(9).wait().step == 9


def reason_of(handle: SaveHandle) -> str:
    """Why the save failed, or nothing."""
    try:
        handle.wait()
    except SaveFailed as error:
        return str(error)
    return ""


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> torch.nn.ParameterList:
    """Parameters of no optimizer, which are too big to be gathered, and of which two pieces at most are queued."""
    monkeypatch.setattr(lane, "SCRATCH", 0)
    monkeypatch.setattr(pieces, "GROUP", 1024)
    monkeypatch.setattr(backlog, "MOST", 2048)
    return torch.nn.ParameterList(torch.nn.Parameter(torch.rand(1024, device="sim")) for _ in range(4))


@pytest.mark.parametrize("after", [0, 3, 15])
def test_T9_a_copy_in_the_call_that_fails_fails_its_save_alone(frozen: torch.nn.ParameterList, after: int) -> None:
    store = Declaring("frozen")
    with AsyncCheckpointer(store, model=frozen, verify="off", generations=1) as checkpointer:
        checkpointer.save(1).wait()
        simacc.configure(fail_copy_after=after)
        assert "inject" in reason_of(checkpointer.save(2))
        assert checkpointer.save(3).wait().step == 3
    assert differing(tensors(asyncckpt.load(store).state["model"]), tensors(frozen.state_dict())) == []


def test_T9_memory_that_a_device_may_still_write_to_is_never_used_again(
    frozen: torch.nn.ParameterList, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AsyncCheckpointer(Declaring("lost"), model=frozen, verify="off", generations=1) as checkpointer:
        checkpointer.save(1).wait()
        (former,) = checkpointer._saver._arenas.free
        with monkeypatch.context() as patch:
            patch.setattr(streams.StreamDevice, "drain", _lost)
            simacc.configure(fail_copy_after=0)
            assert "inject" in reason_of(checkpointer.save(2))
        assert checkpointer._saver._arenas._lost == [former]
        assert checkpointer._saver._arenas.free == ()
        assert checkpointer.save(3).wait().step == 3


def _lost(device: streams.StreamDevice) -> None:
    raise RuntimeError("the device is lost")


def test_T9_page_locking_that_fails_half_way_is_told_and_copies_to_that_memory_block() -> None:
    training, told = Training(torch.optim.SGD, momentum=0.9), Told()
    simacc.configure(fail_pinned_after=1)
    with training.checkpointer(verify="off", generations=2, on_busy="wait", listeners=[told]) as checkpointer:
        for step in range(1, 7):
            wanted = training.state()
            handle = checkpointer.save(step)
            training.step()
            handle.wait()
            assert differing(training.saved(), wanted) == []
        checkpointer._saver.stager.prefault.close()
        arenas = checkpointer._saver._arenas.free
        assert sorted(arena.pin("sim") for arena in arenas) == [False, True]
    fallbacks = told.fallbacks()
    assert list(fallbacks) == ["pinned memory"]
    assert "copies from sim block" in fallbacks["pinned memory"]
    assert "injected failure of a registration" in fallbacks["pinned memory"]


def test_T9_a_save_that_is_given_up_in_mid_copy_copies_no_more_and_the_next_one_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pieces, "GROUP", 1024)
    monkeypatch.setattr(backlog, "MOST", 2048)
    training = Training()
    store, training.store = training.store, GatedStorage(training.store)
    with training.checkpointer(verify="off", generations=2) as checkpointer:
        checkpointer.save(1).wait()
        copies = simacc.stats()["d2h_pinned"]
        training.step()
        with training.store.hold("put", "*.safetensors") as writing:
            first = checkpointer.save(2)
            writing.wait_reached()
            first.wait_staged()
            before = simacc.stats()["d2h_pinned"]
            gate = simacc.hold(side())
            given_up = checkpointer.save(3, on_busy="coalesce")
            wanted, stop = training.state(), Snapshot.stop

            def stopped(self: Snapshot) -> None:
                stop(self)
                gate()  # giving up waits for what the device has been given

            monkeypatch.setattr(Snapshot, "stop", stopped)
            last = checkpointer.save(4, on_busy="coalesce")
            training.step()
            last.wait_staged()
            assert simacc.stats()["d2h_pinned"] - before < 2 * copies
        checkpointer.wait()
    assert [handle.status for handle in (first, given_up, last)] == ["durable", "superseded", "durable"]
    training.store = store
    assert differing(training.saved(), wanted) == []


def test_T9_a_writer_that_fails_leaves_the_arena_to_the_device_until_its_copies_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = Training(torch.optim.SGD, momentum=0.9)
    with training.checkpointer(verify="off", generations=1) as checkpointer:
        checkpointer.save(1).wait()
        with simacc.hold(side()), monkeypatch.context() as patch:
            patch.setattr(pipeline, "digest", _no_digest)
            handle = checkpointer.save(2)
            assert "no digest" in reason_of(handle)
            assert checkpointer.save(3, on_busy="skip").status == "skipped"
        training.step()
        wanted = training.state()
        assert checkpointer.save(4).wait().step == 4
        assert differing(training.saved(), wanted) == []


def _no_digest(data: object) -> str:
    raise StorageError("no digest can be made")


@pytest.mark.kills
def test_T9_a_worker_that_is_killed_in_mid_copy_is_replaced_and_reads_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    training = Training()
    options = {"model": training.model, "optimizer": training.optimizer, "verify": "off"}
    with AsyncCheckpointer(tmp_path / "run", executor="process", **options) as checkpointer:
        checkpointer.save(1).wait()
        training.step()
        wanted = training.state()
        with simacc.hold(side()):
            handle = checkpointer.save(2)
            training.step()
            os.kill(worker_of(checkpointer), signal.SIGKILL)
        assert handle.wait(PATIENCE).step == 2
    found = asyncckpt.load(tmp_path / "run", 2).state
    assert differing(tensors({name: found[name] for name in ("model", "optimizer")}), wanted) == []


def test_T9_closing_waits_for_copies_under_way() -> None:
    training = Training()
    checkpointer = training.checkpointer(verify="off")
    checkpointer.save(1).wait()
    wanted = training.state()
    gate = simacc.hold(side())
    checkpointer.save(2)
    threading.Timer(0.05, gate).start()
    checkpointer.close()
    assert differing(training.saved(), wanted) == []


def test_T9_the_interpreter_may_end_with_copies_under_way() -> None:
    program = """
import torch
from asyncckpt.testing import simacc
from asyncckpt.staging import pinning
from asyncckpt import AsyncCheckpointer
from asyncckpt.storage import MemoryStorage
pinning.add_registrar("sim", pinning.Registrar(simacc.host_register, simacc.host_unregister))
simacc.configure(d2h_bw=50e6)
model = torch.nn.Linear(512, 512).to("sim")
optimizer = torch.optim.SGD(model.parameters())
checkpointer = AsyncCheckpointer(MemoryStorage("end"), model=model, optimizer=optimizer, verify="off")
checkpointer.save(1)
assert simacc.races() == []
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_save_is_refused_while_a_graph_is_captured_and_works_after_it() -> None:
    training = Training()
    with training.checkpointer(verify="off") as checkpointer:
        checkpointer.save(1).wait()
        with simacc.configured(capturing=True), pytest.raises(UnsupportedState, match="graph is being captured"):
            checkpointer.save(2)
        assert checkpointer.save(3).wait().step == 3


def test_nothing_is_compared_while_a_graph_is_captured_but_before_its_replay() -> None:
    """A comparison would have the side stream wait for what is captured, which makes it part of the graph."""
    training = Training()
    with training.checkpointer(verify="always") as checkpointer:
        checkpointer.save(1).wait()
        handle = checkpointer.save(2)
        snapshot = checkpointer._saver.stager._pending[-1]
        snapshot.copied.wait()
        copies = simacc.stats()
        with simacc.configured(capturing=True):
            checkpointer.before_mutation()
        assert simacc.stats() == copies
        assert snapshot.verifying
        checkpointer.before_mutation()
        assert not snapshot.verifying
        assert handle.wait().step == 2


def test_T9_a_device_that_is_full_fails_the_save_and_no_step() -> None:
    training = Training()
    with training.checkpointer() as checkpointer:
        gc.collect()  # what other tests have left would make room
        with simacc.configured(capacity=simacc.stats()["live_bytes"]):
            checkpointer.step(1)
            assert "memory" in reason_of(checkpointer.save(1))
        assert checkpointer.save(2).wait().step == 2


def test_memory_is_page_locked_and_let_go_from_a_device_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread of its own the current device is the first one, whatever the training's is."""
    current: list[int] = []

    def register(address: int, nbytes: int) -> None:
        current.append(torch.accelerator.current_device_index())
        simacc.host_register(address, nbytes)

    def unregister(address: int) -> None:
        current.append(torch.accelerator.current_device_index())
        simacc.host_unregister(address)

    monkeypatch.setattr(streams, "_devices", {})
    monkeypatch.setitem(pinning._registrars, "sim", pinning.Registrar(register, unregister))
    training = Training(device=torch.device("sim", 1))
    with training.checkpointer(generations=1) as checkpointer:
        checkpointer.save(1).wait()
    del checkpointer
    gc.collect()
    assert current == [1, 1]


def test_a_save_that_is_still_copied_when_a_capture_begins_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the strictest mode of capture no thread may wait for anything."""
    training = Training()
    with training.checkpointer(verify="off") as checkpointer:
        checkpointer.save(1).wait()
        gate = simacc.hold(side())
        handle = checkpointer.save(2)
        snapshot = checkpointer._saver.stager._pending[-1]
        snapshot.enqueued.wait()
        copied = snapshot.copied.wait

        def wait(seconds: float | None = None) -> bool:
            if seconds is None:
                gate()  # not before somebody waits for it
            return copied(seconds)

        monkeypatch.setattr(snapshot.copied, "wait", wait)
        with simacc.configured(capturing=True):
            checkpointer.before_mutation()  # returns: the host has waited, the graph does not
            assert snapshot.copied.is_set()
        assert "capturing" in reason_of(handle)
        torch.accelerator.synchronize()
        for step in (3, 4, 5):
            assert checkpointer.save(step).wait().step == step


# -- torn snapshots ------------------------------------------------------------------------------------------


def test_a_snapshot_torn_on_the_device_is_found_and_named() -> None:
    training = Training(torch.optim.SGD, momentum=0.9)
    with training.checkpointer(verify="always") as checkpointer:
        for step, name in enumerate(["first.weight", "last.bias"], start=1):
            handle = checkpointer.save(step)
            checkpointer._saver.stager._pending[-1].copied.wait()
            training.model.get_parameter(name).data.add_(1)
            training.step()
            with pytest.raises(SaveFailed):
                handle.wait()
            torn = handle.error
            assert isinstance(torn, TornSnapshot)
            assert torn.paths == (f"model.{name}",)
        assert checkpointer.save(5).wait().step == 5


def test_a_comparison_does_not_hold_the_host() -> None:
    training = Training(torch.optim.SGD, momentum=0.9)
    with training.checkpointer(verify="always") as checkpointer:
        checkpointer.save(1).wait()
        wanted = training.state()
        with simacc.hold(side()):
            handle = checkpointer.save(2)
            training.forward_backward()
            training.optimizer.step()
            assert not handle.done()
        handle.wait()
    assert differing(training.saved(), wanted) == []
