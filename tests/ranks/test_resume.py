"""Resuming on several ranks: all take the same checkpoint, or all are told why there is none to take."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import asyncckpt
from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.errors import (
    CheckpointDirectoryExistsError,
    IncompatibleState,
    RestoreError,
    SaveFailed,
    TransientError,
)
from asyncckpt.events import Damaged, Event
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.worker import pulse
from asyncckpt.worker.ranks import CALL_KEY
from tests.ranks.executors import Launcher, gated
from tests.ranks.looking import OwnTime, error_of, is_leader, shorten_deadline, steps_of, wait_for_beats
from tests.ranks.training import Training

pytestmark = pytest.mark.ranks


def _train(root: Path, steps: int) -> None:
    training = Training()
    with training.checkpointer(root, save=SavePolicy(every_steps=1), on_busy="wait") as checkpointer:
        checkpointer.resume()
        for step in range(1, steps + 1):
            training.step()
            checkpointer.step(step)


class Damages:
    def __init__(self) -> None:
        self.found: list[tuple[int | None, str]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, Damaged):
            self.found.append((event.step, event.kind))


def _damage(root: Path, step: int, rank: int, kind: str = "content") -> None:
    (pack,) = root.glob(f"data/*-step-{step}-*/rank-0000{rank}-*.safetensors")
    if kind == "missing":
        pack.unlink()
        return
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)


def _fall_back(root: Path) -> tuple[str, int, tuple[int, int], list[tuple[int | None, str]]]:
    damages, training = Damages(), Training()
    with training.checkpointer(root, listeners=[damages]) as checkpointer:
        named = error_of(lambda: checkpointer.resume(which=3))
        untouched = training.loader.taken
        state = checkpointer.resume()
        assert state is not None
        taken = training.loader.taken
        training.step()
        assert checkpointer.save(state.step + 1).wait().step == state.step + 1
    return named, state.step, (untouched, taken), damages.found


@pytest.mark.parametrize(("rank", "kind"), [(0, "content"), (1, "missing")])
def test_a_damaged_shard_of_one_rank_makes_all_fall_back_together(
    tmp_path: Path, launch: Launcher, rank: int, kind: str
) -> None:
    launch(_train, 3, tmp_path, 3)
    _damage(tmp_path, 3, rank, kind)
    results = launch(_fall_back, 3, tmp_path)
    for at, (named, step, taken, damages) in enumerate(results):
        assert named.startswith("CheckpointCorruptError" if at == 0 else "RestoreError: rank 0 could not resume")
        assert f"rank-0000{rank}-of-00003.p0.safetensors" in named
        assert step == 2
        assert taken == (0, 2)
        assert damages == ([(3, kind)] * 2 if at == 0 else [])
    assert len([*tmp_path.glob("user/00000003-damaged-*.json")]) == 1, "the next training knows it"


def _mirrored(root: Path, steps: int) -> int:
    training = Training()
    with training.checkpointer(root / "home", mirror=root / "copies") as checkpointer:
        state = checkpointer.resume()
        first = state.step if state else 0
        for step in range(first + 1, first + steps + 1):
            training.step()
            checkpointer.save(step).wait()
    return first


def test_what_one_rank_alone_found_damaged_and_a_mirror_mended_is_noted_too(tmp_path: Path, launch: Launcher) -> None:
    launch(_mirrored, 2, tmp_path, 1)
    _damage(tmp_path / "home", 1, rank=1)
    assert launch(_mirrored, 2, tmp_path, 1) == [1, 1]
    assert len([*tmp_path.glob("home/user/00000001-damaged-*.json")]) == 1
    assert not [*tmp_path.glob("copies/user/*")]


def _resume(root: Path) -> str:
    training = Training()
    with training.checkpointer(root) as checkpointer:
        return error_of(checkpointer.resume)


def test_all_damaged_is_said_on_every_rank(tmp_path: Path) -> None:
    run_ranks(_train, 2, tmp_path, 2)
    for step in (1, 2):
        _damage(tmp_path, step, 1)
    for message in run_ranks(_resume, 2, tmp_path):
        assert "all 2 checkpoints of this run are damaged" in message


def _start(root: Path) -> tuple[bool, str]:
    training = Training()
    with training.checkpointer(root / "run") as checkpointer:
        nothing = checkpointer.resume() is None and checkpointer.checkpoints() == [] and checkpointer.latest() is None
    return nothing, _resume(root / "file")


def test_an_empty_root_is_none_and_a_file_an_error_on_every_rank(tmp_path: Path, launch: Launcher) -> None:
    (tmp_path / "file").write_text("not a folder")
    for nothing, message in launch(_start, 2, tmp_path):
        assert nothing
        assert "StorageDenied" in message


def _one_cannot_read(root: Path) -> tuple[str, int]:
    training, storage = Training(), gated(root)
    with training.checkpointer(storage) as checkpointer:
        if dist.get_rank() == 1:
            storage.fail("get", "*.safetensors", lambda: TransientError("no route to the store"))
        message = error_of(checkpointer.resume)
        storage.heal()
        state = checkpointer.resume()
        assert state is not None
    return message, state.step


def test_a_rank_that_cannot_read_fails_the_resume_of_all_and_the_next_one_works(tmp_path: Path) -> None:
    run_ranks(_train, 3, tmp_path, 1)
    leader, victim, other = run_ranks(_one_cannot_read, 3, tmp_path)
    error = "TransientError: the store cannot be read: no route to the store"
    assert victim == (error, 1)
    assert leader == (f"RestoreError: rank 1 could not resume: {error}", 1)
    assert other == (f"RestoreError: rank 0 could not resume: {leader[0]}", 1)


def _comes_alone(root: Path, who: int, call: str) -> str:
    training = Training()
    with training.checkpointer(root) as checkpointer:
        shorten_deadline(checkpointer, 0.3)
        message = error_of(getattr(checkpointer, call)) if dist.get_rank() == who else ""
        dist.barrier()
    return message


@pytest.mark.parametrize(
    ("call", "said"),
    [("resume", "resume(which='latest')"), ("restore", "restore('latest', strict=True, only=None, exclude=[])")],
)
@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_resumes_or_restores_alone_is_told_whom_it_waited_for(
    tmp_path: Path, who: int, call: str, said: str
) -> None:
    run_ranks(_train, 2, tmp_path, 1)
    message = run_ranks(_comes_alone, 2, tmp_path, who, call)[who]
    assert f"RestoreError: no answer in {said} from rank {1 - who} within 0.3 s" in message
    assert "does not call" in message


def _calls_apart(root: Path) -> tuple[str, str, int]:
    training = Training()
    with training.checkpointer(root) as checkpointer:
        which = error_of(lambda: checkpointer.resume(which=1 if is_leader() else 2))
        other = error_of(checkpointer.resume if is_leader() else lambda: checkpointer.restore("latest"))
        untouched = training.loader.taken
        assert checkpointer.resume() is not None
    return which, other, untouched


def test_ranks_that_call_for_different_checkpoints_are_all_told_so(tmp_path: Path) -> None:
    run_ranks(_train, 2, tmp_path, 2)
    for which, other, untouched in run_ranks(_calls_apart, 2, tmp_path):
        assert "rank 0 called resume(which=1), and rank 1 resume(which=2)" in which
        assert "rank 0 called resume(which='latest'), and rank 1 restore('latest', strict=True" in other
        assert untouched == 0


def _restores(root: Path) -> tuple[list[str], int, list[int]]:
    training = Training()
    with training.checkpointer(root) as checkpointer:
        if not is_leader():
            checkpointer._executor.pool.run(_blinded)
        messages = [error_of(lambda which=which: checkpointer.restore(which)) for which in ("latest", 3)]
        before = training.loader.taken
        steps = [checkpointer.restore(which).step for which in (2, "00000001")]
    return messages, before, steps


async def _blinded(service: Any) -> None:
    """This rank's own view of the run: it may be of another moment than rank 0's."""
    service.catalog.named = None


def test_all_ranks_restore_what_rank_0_chose_or_none_changes_anything(tmp_path: Path) -> None:
    run_ranks(_train, 3, tmp_path, 3)
    _damage(tmp_path, 3, rank=1)
    for rank, (messages, before, steps) in enumerate(run_ranks(_restores, 3, tmp_path)):
        for message in messages:
            assert message.startswith("CheckpointCorruptError" if rank == 0 else "RestoreError: rank 0 could not")
            assert "rank-00001-of-00003.p0.safetensors" in message
        assert before == 0
        assert steps == [2, 1]


def _restores_apart(root: Path) -> tuple[str, str, float]:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(3.0)
    with AsyncCheckpointer(root, model=model) as checkpointer:
        checkpointer.save(1).wait()
        checkpointer.before_mutation()
        with torch.no_grad():
            model.weight.fill_(-1.0)
        part = "model" if is_leader() else "rng"
        restored = error_of(lambda: checkpointer.restore(1, only=[part]))
        resumed = error_of(lambda: checkpointer.resume(exclude=() if is_leader() else "rng"))
        return restored, resumed, model.weight.item()


def test_ranks_that_restore_different_parts_are_told_so_and_nothing_changes(tmp_path: Path) -> None:
    for restored, resumed, weight in run_ranks(_restores_apart, 2, tmp_path):
        assert "only=['model'], exclude=[]), and rank 1 restore(1, strict=True, only=['rng']" in restored
        assert "resume(which='latest'), and rank 1 resume(which='latest', exclude=['rng'])" in resumed
        assert weight == -1.0


def _one_calls_in_vain(root: Path, who: int) -> list[str]:
    """One rank restores alone and gives up; after that all of them call together."""
    training = Training()
    with training.checkpointer(root) as checkpointer:
        deadline = checkpointer._returning._ranks.deadline
        if dist.get_rank() == who:
            shorten_deadline(checkpointer, 0.3)
            assert error_of(lambda: checkpointer.restore("latest")) != "no error"
            shorten_deadline(checkpointer, deadline)
            checkpointer._returning._ranks.peek(CALL_KEY)  # once this is answered, it has said that it failed
        found = []
        for _ in range(3):
            dist.barrier()
            found.append(error_of(lambda: checkpointer.restore("latest")))
        state = checkpointer.resume()
        assert state is not None
        assert checkpointer.save(state.step + 1).wait().step == state.step + 1
    return found


@pytest.mark.parametrize("who", [0, 1])
def test_a_call_that_one_rank_made_alone_does_not_shift_those_that_all_make(tmp_path: Path, who: int) -> None:
    run_ranks(_train, 2, tmp_path, 1)
    for found in run_ranks(_one_calls_in_vain, 2, tmp_path, who):
        assert found == ["no error"] * 3


def _goes_back(root: Path) -> str:
    with AsyncCheckpointer(root, model=torch.nn.Linear(2, 2), extra={"refuses": Refuses()}) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step).wait()
    with AsyncCheckpointer(root, model=torch.nn.Linear(2, 2), extra={"refuses": Refuses()}) as checkpointer:
        return error_of(lambda: checkpointer.resume(which=1))


def _resumes(root: Path) -> int:
    with AsyncCheckpointer(root, model=torch.nn.Linear(2, 2)) as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        return state.step


def test_a_resume_that_failed_on_one_rank_has_not_taken_the_run_back(tmp_path: Path, launch: Launcher) -> None:
    leader, member = launch(_goes_back, 2, tmp_path)
    assert "rank 1 could not put its state back" in leader
    assert "it does not want to" in member
    assert launch(_resumes, 2, tmp_path) == [3, 3]


def _slow_resume(root: Path) -> tuple[int, int]:
    """Rank 0's store takes three times as long as the deadline to read from: the other rank sees it at work."""
    pulse.BEAT = 0.01
    training, storage = Training(), gated(root)
    with training.checkpointer(storage) as checkpointer:
        ranks = checkpointer._returning._ranks
        gate = storage.hold("get", "*/rank-00000-of-*.safetensors")
        if is_leader():
            threading.Thread(target=lambda: (wait_for_beats(ranks, 15), gate.open())).start()
        else:
            OwnTime().pass_with_beats(ranks)
            gate.open()
        state = checkpointer.resume()
        assert state is not None
    return state.step, training.loader.taken


def test_a_resume_that_takes_longer_than_the_deadline_is_no_death(tmp_path: Path) -> None:
    run_ranks(_train, 2, tmp_path, 1)
    assert run_ranks(_slow_resume, 2, tmp_path) == [(1, 1)] * 2


def _other_world(root: Path) -> list[str]:
    training = Training()
    with training.checkpointer(root) as checkpointer:
        return [error_of(checkpointer.resume), error_of(lambda: checkpointer.restore("latest"))]


@pytest.mark.parametrize(("before", "now"), [(2, 3), (2, 1), (1, 2)])
def test_a25_a_changed_world_size_is_refused_on_every_rank(tmp_path: Path, before: int, now: int) -> None:
    run_ranks(_train, before, tmp_path, 1)
    limit = f"saved by {before} rank(s), this training has {now}: a changed world size is not supported in this version"
    for messages in run_ranks(_other_world, now, tmp_path):
        assert all(limit in message and "IncompatibleState" in message for message in messages)
    assert asyncckpt.load(tmp_path).state["dataloader"] == {"rank": 0, "taken": 1}


def _twice(root: Path) -> tuple[list[int], list[int], list[float]]:
    """Train, go back in the same process, train on; then a second checkpointer takes over from the first."""
    training, found = Training(), []
    first = training.checkpointer(root, save=SavePolicy(every_steps=1), on_busy="wait")
    assert first.resume() is None
    for step in range(1, 4):
        training.step()
        assert first.step(step) is not None
    state = first.resume(which=2)
    assert state is not None
    found.append(state.step)
    assert first.step(3) is not None
    assert first.step(4) is not None
    second = training.checkpointer(root)
    state = second.resume()
    assert state is not None
    found.append(state.step)
    second.save(5).wait()
    listed = [info.step for info in second.checkpoints()]
    second.close()
    first.close()
    return found, listed, training.losses


def test_resuming_again_in_the_same_process(tmp_path: Path, launch: Launcher) -> None:
    results = launch(_twice, 2, tmp_path)
    for resumed, listed, _ in results:
        assert resumed == [2, 4]
        assert listed == [1, 2, 3, 4, 5]
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5]


class Whole(torch.nn.Module):
    """Rank 0's own tensor, of which a parameter that all share is a part."""

    def __init__(self) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.arange(6.0))


def _shares_bytes(root: Path) -> list[float]:
    whole, model = Whole(), torch.nn.Linear(2, 1, bias=False)
    model.weight.data = whole.values.data[2:4].view(1, 2)
    with AsyncCheckpointer(root, model=model, extra={"whole": whole}) as checkpointer:
        checkpointer.save(1).wait()
        with torch.no_grad():
            model.weight.zero_()
        checkpointer.restore(1)
    return model.weight.flatten().tolist()


def test_shared_state_in_the_bytes_of_rank_0s_own_comes_back_on_every_rank(tmp_path: Path) -> None:
    assert run_ranks(_shares_bytes, 2, tmp_path) == [[2.0, 3.0]] * 2


class Refuses:
    """An object that takes nothing back on rank 1."""

    def state_dict(self) -> dict[str, int]:
        return {"value": 1}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if not is_leader():
            raise ValueError("it does not want to")


def _cannot_go_on(root: Path, how: str) -> tuple[str, str, float]:
    """What `resume` raises on each rank when rank 1 alone cannot take the state, and what saving says then."""
    torch.manual_seed(0)
    extra = {"refuses": Refuses()} if how == "refuses" else None
    with AsyncCheckpointer(root, model=torch.nn.Linear(2, 2), extra=extra) as checkpointer:
        checkpointer.save(1).wait()
    width = 3 if how == "shape" and not is_leader() else 2
    model = torch.nn.Linear(2, width)
    before = model.weight.sum().item()
    with AsyncCheckpointer(root, model=model, extra=extra) as checkpointer:
        with pytest.raises((RestoreError, IncompatibleState)) as raised:
            checkpointer.resume()
        with pytest.raises((CheckpointDirectoryExistsError, SaveFailed, RestoreError)) as refused:
            checkpointer.save(2).wait()
    return str(raised.value), str(refused.value), model.weight.sum().item() - before


def test_a_rank_that_does_not_fit_stops_all_before_anything_is_changed(tmp_path: Path) -> None:
    (leader, saving, change), (member, _, other) = run_ranks(_cannot_go_on, 2, tmp_path, "shape")
    assert "rank 1 could not resume" in leader
    assert "shape" in member
    assert "has not resumed" in saving
    assert (change, other) == (0, 0)
    assert steps_of(tmp_path) == [1]


def test_a_rank_that_cannot_put_its_state_back_stops_all(tmp_path: Path) -> None:
    (leader, saving, _), (member, halfway, _) = run_ranks(_cannot_go_on, 2, tmp_path, "refuses")
    assert "rank 1 could not put its state back" in leader
    assert "it does not want to" in leader
    assert "it does not want to" in member
    assert "has not resumed" in saving or "exists" in saving
    assert "step 1 ended halfway" in halfway
    assert steps_of(tmp_path) == [1]


def _waits_in_the_store(root: Path) -> bool:
    """Rank 1 waits for a save while rank 0 waits in torch's own store for rank 1: neither may hold the other up."""
    training = Training()
    store = dist.distributed_c10d._get_default_store()
    with training.checkpointer(root, verify="off") as checkpointer:
        training.step()
        handle = checkpointer.save(1)
        if is_leader():
            store.wait(["rank 1 is through"], timedelta(seconds=60))
        else:
            handle.wait(30)
            store.set("rank 1 is through", "")
        return handle.wait(30).step == 1


def test_torchs_own_use_of_the_store_holds_no_save_up(tmp_path: Path) -> None:
    assert run_ranks(_waits_in_the_store, 2, tmp_path) == [True, True]
