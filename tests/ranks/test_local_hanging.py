"""The local disk of one rank hangs: every save is in the root, no rank waits for it for long, and all go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from asyncckpt import AsyncCheckpointer, SaveHandle
from asyncckpt.errors import SaveFailed
from asyncckpt.events import Event, Fallback
from asyncckpt.preemption import plan
from asyncckpt.preemption.speed import Speed
from asyncckpt.storage import LocalStorage, bounded
from asyncckpt.testing.files import Call, WatchedFiles
from asyncckpt.testing.hanging import Hang, Patient
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.testing.slow import PATIENCE
from tests.ranks.executors import Launcher, gated
from tests.ranks.looking import steps_of, unlisted
from tests.ranks.test_local import _twin
from tests.ranks.test_mirror import Told
from tests.ranks.training import Seen, Training

pytestmark = pytest.mark.ranks


def _saved(training: Training, ckpt: AsyncCheckpointer, step: int) -> SaveHandle:
    training.step()
    handle = ckpt.save(step)
    handle.wait(60)
    return handle


def _where(handle: SaveHandle) -> str:
    """Whether the local tier has it, or why not."""
    try:
        handle.wait(60, tier="local")
    except SaveFailed as error:
        return str(error)
    return "landed"


def _write_hangs(folder: Path, victim: int) -> tuple[list[str], int, Seen, int]:
    """The part of one rank at step 2 hangs on its local disk, and comes back after step 3; puts of that there, too."""
    training, local, me = Training(), Patient(gated(folder / "local")), dist.get_rank()
    ckpt = training.checkpointer(folder / "root", local=local, generations=1)
    said = [_where(_saved(training, ckpt, 1))]
    hang = Hang(local, "put", f"data/*-step-2-*/rank-0000{me}-*") if me == victim else None
    dist.barrier()
    training.step()
    handle = ckpt.save(2)
    if hang is not None:
        hang.begin()
    handle.wait(60)
    said += [_where(handle), _where(_saved(training, ckpt, 3))]
    if hang is not None:
        hang.end()
    dist.barrier()
    step = 4
    while _where(_saved(training, ckpt, step)) != "landed":
        step += 1
    ckpt.close(PATIENCE)
    return said, step, training.seen, local.gated.count("put", "data/*-step-3-*")


class Passed(Told):
    """Also why the local tier was passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []

    def on_event(self, event: Event) -> None:
        super().on_event(event)
        if isinstance(event, Fallback) and event.feature == "local":
            self.reasons.append(event.reason)


def _read_hangs(folder: Path, victim: int, step: int) -> tuple[int, Seen, Passed]:
    """The part of one rank cannot be read on its local disk, nor written any more before the end."""
    told, training, local = Passed(), Training(seed=5), Patient(gated(folder / "local"))
    me = dist.get_rank()
    if me == victim:
        Hang(local, "get", f"data/*-step-{step}-*/rank-0000{me}-*", begun=True)
    ckpt = training.checkpointer(folder / "root", local=local, listeners=[told])
    state = ckpt.resume()
    assert state is not None
    training.step()
    ckpt.save(step + 1).wait(60)
    ckpt.close(PATIENCE)
    return state.step, training.seen, told


@pytest.mark.parametrize("victim", [0, 1])
def test_a_disk_that_hangs_for_one_rank_keeps_nothing_from_the_root_and_no_rank_from_going_on(
    tmp_path: Path, launch: Launcher, victim: int
) -> None:
    found = launch(_write_hangs, 2, tmp_path, victim)
    for said, _, _, puts in found:
        assert said[0] == "landed"
        assert all("is not on the local tier" in each for each in said[1:])
        assert puts == 0, "it cannot be complete there"
    assert "has not gone on" in found[victim][0][1]
    assert ("it hangs for rank 1" if victim else "nothing else is asked of it") in found[0][0][2]
    (landed,) = {step for _, step, _, _ in found}
    assert steps_of(tmp_path / "root") == list(range(1, landed + 1))
    assert steps_of(tmp_path / "local") == [1, landed]
    twins = run_ranks(_twin, 2, landed + 1)
    for at, ((step, seen, told), twin) in enumerate(
        zip(launch(_read_hangs, 2, tmp_path, victim, landed), twins, strict=True)
    ):
        assert step == landed
        assert told.restored == (["home"] if at == victim else ["local"])
        assert [f"step {landed} cannot be read from the local tier" in reason for reason in told.reasons] == (
            [True] if at == victim else []
        )
        assert seen.losses == twin.losses[-1:]
        assert seen.draws == twin.draws[-3:]
        assert seen.loader == twin.loader
    assert steps_of(tmp_path / "root") == list(range(1, landed + 2))
    assert set(steps_of(tmp_path / "local")) <= {1, landed, landed + 1}
    assert unlisted(tmp_path / "root") == []


class Held(WatchedFiles):
    """Writes of one step's files do not come back before `go`."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.name = f"-step-{step}-"
        self.held, self.go = threading.Event(), threading.Event()

    def around(self, call: Call) -> Any:
        if call.name == "write" and any(self.name in path for path in call.paths):
            self.held.set()
            self.go.wait(2 * PATIENCE)
        return super().around(call)


def _emergency(folder: Path, generations: int) -> list[str]:
    """Nobody waits for a disk here for longer than a moment in a hurry, and for ever else."""
    bounded.PATIENCE, bounded.HURRY, bounded.LOOK = 3600.0, 0.05, 0.01
    plan.LEAST = 0.0
    me, files, training = dist.get_rank(), Held(2), Training()
    local = LocalStorage(folder / "local", files=files) if me else folder / "local"
    ckpt = training.checkpointer(folder / "root", local=local, generations=generations)
    _saved(training, ckpt, 1)
    speedometer = ckpt._stopping._speedometer
    speedometer._recent.extend([Speed(1e9)] * 4)
    training.step()
    handles = [ckpt.save(2)]
    if me:
        assert files.held.wait(PATIENCE)
    dist.barrier()
    training.step()
    # With one generation the save that hangs has to give way, which the plan has it do; with two it need not.
    handles.append(ckpt.save(3, emergency=True, deadline=PATIENCE if generations == 1 else None))
    assert handles[1].wait(60).step == 3
    files.go.set()
    ckpt.close(PATIENCE)
    return [handle.status for handle in handles]


@pytest.mark.parametrize("generations", [1, 2])
def test_an_emergency_waits_only_a_moment_for_the_disk_of_another_rank(tmp_path: Path, generations: int) -> None:
    launch = Launcher("thread", tmp_path)
    for statuses in launch(_emergency, 2, tmp_path, generations):
        assert statuses[1] == "durable"
    assert steps_of(tmp_path / "root")[-1] == 3
