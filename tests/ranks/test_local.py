"""A local tier that ranks share: every rank's part is there first, and goes to the root from there."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch.distributed as dist

from asyncckpt import SavePolicy
from asyncckpt.errors import SaveError, StorageDenied, TransientError
from asyncckpt.events import Event, TierDurable
from asyncckpt.storage import mounts
from asyncckpt.testing.ranks import run_ranks
from tests.ranks.executors import Launcher, gated
from tests.ranks.looking import failure_of, is_leader, shorten_deadline, steps_of, unlisted
from tests.ranks.test_mirror import Told
from tests.ranks.training import Seen, Training

if sys.platform == "linux":
    from tests.checkpointer.trainings import worker_of

pytestmark = pytest.mark.ranks


class Landed:
    """A listener that keeps which tier had what."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, TierDurable):
            self.found.append((event.tier, event.step))


def _train(folder: Path, first: int, last: int) -> tuple[Seen, list[str]]:
    training, handles = Training(), []
    with training.checkpointer(
        folder / "root", local=folder / "local", save=SavePolicy(every_steps=1), on_busy="wait"
    ) as checkpointer:
        checkpointer.resume()
        for step in range(first, last + 1):
            training.step()
            handle = checkpointer.step(step)
            assert handle is not None
            assert handle.wait(60, tier="local").step == step
            handles.append(handle)
    return training.seen, [handle.status for handle in handles]


def _resume(folder: Path) -> tuple[int, Seen, Told]:
    told, training = Told(), Training(seed=5)
    with training.checkpointer(folder / "root", local=folder / "local", listeners=[told]) as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        training.step()
    return state.step, training.seen, told


def _twin(steps: int) -> Seen:
    training = Training()
    for _ in range(steps):
        training.step()
    return training.seen


def test_every_rank_has_its_part_there_first_and_goes_on_from_it(tmp_path: Path, launch: Launcher) -> None:
    for _, statuses in launch(_train, 3, tmp_path, 1, 4):
        assert statuses == ["durable"] * 4
    assert steps_of(tmp_path / "root") == [1, 2, 3, 4]
    assert steps_of(tmp_path / "local") == [3, 4]
    (folder,) = (tmp_path / "local").glob("data/*-step-4-*")
    packs = sorted(path.name for path in folder.glob("*.safetensors"))
    assert [name[:10] for name in packs] == ["rank-00000", "rank-00001", "rank-00002"]
    for name in [*packs, "manifest.json"]:
        assert (folder / name).read_bytes() == (tmp_path / "root" / "data" / folder.name / name).read_bytes()
    for (step, seen, told), twin in zip(launch(_resume, 3, tmp_path), run_ranks(_twin, 3, 5), strict=True):
        assert step == 4
        assert told.restored == ["local"]
        assert seen.losses == twin.losses[-1:]
        assert seen.draws == twin.draws[-3:]
        assert seen.loader == twin.loader


@pytest.mark.parametrize("rank", [0, 1])
def test_a_shard_that_is_damaged_there_is_read_in_the_root_by_its_rank_alone(
    tmp_path: Path, launch: Launcher, rank: int
) -> None:
    launch(_train, 2, tmp_path, 1, 3)
    (pack,) = (tmp_path / "local").glob(f"data/*-step-3-*/rank-0000{rank}-*.safetensors")
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    for at, ((step, seen, told), twin) in enumerate(
        zip(launch(_resume, 2, tmp_path), run_ranks(_twin, 2, 4), strict=True)
    ):
        assert step == 3
        assert seen.losses == twin.losses[-1:]
        assert told.restored == (["home"] if at == rank else ["local"])
        assert told.damaged == ([(3, "local")] if at == rank else [])


def _root_is_away(folder: Path) -> list[str]:
    """Steps 2 and 3 never reach the root."""
    training, root = Training(), gated(folder / "root")
    checkpointer = training.checkpointer(root, local=folder / "local")
    training.step()
    checkpointer.save(1).wait(60)
    dist.barrier()
    if dist.get_rank() == 0:
        root.fail("put", "*", lambda: TransientError("the root is away"))
    said = []
    for step in (2, 3):
        training.step()
        handle = checkpointer.save(step)
        assert handle.wait(60, tier="local").step == step
        said.append(str(failure_of(handle)))
    with suppress(SaveError):
        checkpointer.close()
    return said


def test_what_the_root_never_got_is_brought_there_whole_and_every_rank_goes_on_from_it(
    tmp_path: Path, launch: Launcher
) -> None:
    for said in launch(_root_is_away, 2, tmp_path):
        assert all("the root is away" in each for each in said)
    assert steps_of(tmp_path / "root") == [1]
    assert steps_of(tmp_path / "local") == [2, 3]
    for (step, seen, _), twin in zip(launch(_resume, 2, tmp_path), run_ranks(_twin, 2, 4), strict=True):
        assert step == 3
        assert seen.losses == twin.losses[-1:]
        assert seen.loader == twin.loader
    assert steps_of(tmp_path / "root") == [1, 3]


def _full_for(folder: Path, rank: int) -> tuple[list[str], str, list[tuple[str, int]]]:
    """The local disk takes nothing of one rank's second save."""
    training, local, landed = Training(), gated(folder / "local"), Landed()
    with training.checkpointer(folder / "root", local=local, listeners=[landed]) as checkpointer:
        if dist.get_rank() == rank:
            local.fail("put", f"data/*-step-2-*/rank-0000{rank}-*", lambda: StorageDenied(28, "No space left"))
        handles = []
        for step in (1, 2, 3):
            training.step()
            handles.append(checkpointer.save(step))
            handles[-1].wait(60)
        try:
            missed = f"{handles[1].wait(60, tier='local')}"
        except SaveError as error:
            missed = str(error)
    return [handle.status for handle in handles], missed, landed.found


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_for_which_there_is_no_room_costs_no_save(tmp_path: Path, launch: Launcher, rank: int) -> None:
    found = launch(_full_for, 2, tmp_path, rank)
    for statuses, missed, _ in found:
        assert statuses == ["durable"] * 3
        assert "step 2 is not on the local tier" in missed
    assert "No space left" in found[rank][1]
    assert found[0][2] == [("local", 1), ("local", 3)]
    assert steps_of(tmp_path / "root") == [1, 2, 3]
    assert steps_of(tmp_path / "local") == [1, 3]


def _one_is_missing(folder: Path) -> tuple[str, int]:
    """Rank 1 takes no part in step 2."""
    training, told = Training(), Told()
    with training.checkpointer(folder / "root", local=folder / "local", listeners=[told]) as checkpointer:
        training.step()
        checkpointer.save(1).wait(60)
        shorten_deadline(checkpointer, 1)
        said = str(failure_of(checkpointer.save(2))) if is_leader() else ""
        dist.barrier()
    return said, told.failed


def test_a_rank_that_is_missing_is_no_failure_of_the_local_tier(tmp_path: Path) -> None:
    (said, failed), _ = Launcher("thread", tmp_path / "runtime")(_one_is_missing, 2, tmp_path)
    assert "no part of step 2 from rank 1" in said
    assert failed == 0
    assert steps_of(tmp_path / "local") == steps_of(tmp_path / "root") == [1]


def _root_hangs(folder: Path) -> list[int]:
    """More saves land than there are generations of memory, while the root takes nothing."""
    training, root = Training(), gated(folder / "root")
    gate = root.hold("put", "data/*")
    with training.checkpointer(root, local=folder / "local", generations=1) as checkpointer:
        handles = []
        for step in range(1, 7):
            training.step()
            handles.append(checkpointer.save(step))
            assert handles[-1].wait(60, tier="local").step == step
        dist.barrier()
        gate.open()
        return [handle.wait(60).step for handle in handles]


def test_a_root_that_hangs_holds_the_memory_of_no_rank(tmp_path: Path, launch: Launcher) -> None:
    assert launch(_root_hangs, 2, tmp_path) == [[1, 2, 3, 4, 5, 6]] * 2
    assert steps_of(tmp_path / "root") == [1, 2, 3, 4, 5, 6]


def _worker_dies(folder: Path, victim: int) -> list[str]:
    """The worker process of one rank is killed while two saves are on their way to the root."""
    training, root = Training(), gated(folder / "root")
    gate = root.hold("put", "data/*")
    with training.checkpointer(root, local=folder / "local", generations=1) as checkpointer:
        handles = []
        for step in (1, 2):
            training.step()
            handles.append(checkpointer.save(step))
            handles[-1].wait(60, tier="local")
        dist.barrier()
        if is_leader():
            gate.wait_reached()
        if dist.get_rank() == victim:
            os.kill(worker_of(checkpointer), signal.SIGKILL)
        if is_leader() and victim == 0:
            gate.wait_reached(2)
        gate.open()
        return [handle.wait(60) and handle.status for handle in handles]


@pytest.mark.kills
@pytest.mark.skipif(sys.platform != "linux", reason="a worker process needs Linux")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_dies_on_the_way_to_the_root_is_replaced_and_no_rank_writes_again(
    tmp_path: Path, victim: int
) -> None:
    (tmp_path / "runtime").mkdir()
    launch = Launcher("process", tmp_path / "runtime")
    assert launch(_worker_dies, 2, tmp_path, victim) == [["durable"] * 2] * 2
    assert steps_of(tmp_path / "root") == steps_of(tmp_path / "local") == [1, 2]
    assert unlisted(tmp_path / "local") == []


def _killed(folder: Path) -> None:
    """Every rank dies once step 2 is on the local tier, and nothing of it in the root."""
    training = Training()
    root = gated(folder / "root")
    checkpointer = training.checkpointer(root, local=folder / "local")
    training.step()
    checkpointer.save(1).wait(60)
    dist.barrier()
    if dist.get_rank() == 0:
        root.fail("put", "data/*-step-2-*", lambda: TransientError("the root is away"))
    training.step()
    checkpointer.save(2).wait(60, tier="local")
    dist.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.kills
def test_ranks_that_are_all_killed_before_the_root_has_it_go_on_from_the_local_tier(
    tmp_path: Path, launch: Launcher
) -> None:
    launch(_killed, 2, tmp_path, killed=[0, 1])
    assert steps_of(tmp_path / "local") == [1, 2]
    for (step, seen, told), twin in zip(launch(_resume, 2, tmp_path), run_ranks(_twin, 2, 3), strict=True):
        assert step == 2
        assert told.restored == ["local"]
        assert seen.losses == twin.losses[-1:]
        assert seen.draws == twin.draws[-3:]
    assert steps_of(tmp_path / "root") == [1, 2]


def _passed(folder: Path) -> list[str]:
    """The root is busy with step 1 while 2 and 3 land."""
    training, root = Training(), gated(folder / "root")
    gate = root.hold("put", "data/*-step-1-*")
    with training.checkpointer(
        root, local=folder / "local", save=SavePolicy(every_steps=1), on_busy="coalesce"
    ) as checkpointer:
        handles = []
        for step in (1, 2, 3):
            training.step()
            handles.append(checkpointer.step(step))
            assert handles[-1] is not None
            handles[-1].wait(60, tier="local")
        dist.barrier()
        gate.open()
    return [handle.status for handle in handles if handle is not None]


def test_one_that_a_newer_one_passes_on_the_way_to_the_root_is_superseded_on_every_rank(
    tmp_path: Path, launch: Launcher
) -> None:
    assert launch(_passed, 2, tmp_path) == [["durable", "superseded", "durable"]] * 2
    assert steps_of(tmp_path / "root") == [1, 3]


def _refused(local: Path | str, root: Path, ranks_here: int | None) -> str:
    if ranks_here is not None:
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(ranks_here), "RANK": str(dist.get_rank())}
    try:
        Training().checkpointer(root, local=local)
    except NotImplementedError as error:
        return str(error)
    return "not refused"


def test_ranks_that_cannot_share_the_folder_are_refused(tmp_path: Path) -> None:
    for said in run_ranks(_refused, 2, tmp_path / "local", tmp_path / "root", 1):
        assert "is on a disk of this machine, with ranks on several machines (1 of 2 are here)" in said
    for said in run_ranks(_refused, 2, "memory://x", tmp_path / "root", None):
        assert "is the memory of one process" in said
    assert list(tmp_path.iterdir()) == []


def _elsewhere(folder: Path, kind: str) -> None:
    """This rank is alone on its machine, and what is below `folder` is mounted from a file system of that `kind`."""
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "RANK": str(dist.get_rank())}
    os.environ |= alone
    table = folder / f"mounts-{dist.get_rank()}"
    table.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {folder} rw - {kind} server:/export rw\n")
    mounts.TABLE = str(table)
    socket.gethostname = lambda: f"machine-{dist.get_rank()}"


def _train_on_machines(folder: Path, first: int, last: int) -> tuple[Seen, list[str]]:
    _elsewhere(folder, "lustre")
    return _train(folder, first, last)


def _resume_on_machines(folder: Path) -> tuple[int, Seen, Told]:
    _elsewhere(folder, "lustre")
    return _resume(folder)


def test_ranks_on_several_machines_share_a_folder_that_all_of_them_mount(tmp_path: Path, launch: Launcher) -> None:
    for _, statuses in launch(_train_on_machines, 2, tmp_path, 1, 3):
        assert statuses == ["durable"] * 3
    assert steps_of(tmp_path / "local") == [2, 3]
    for (step, seen, told), twin in zip(launch(_resume_on_machines, 2, tmp_path), run_ranks(_twin, 2, 4), strict=True):
        assert step == 3
        assert told.restored == ["local"]
        assert seen.losses == twin.losses[-1:]
        assert seen.draws == twin.draws[-3:]


def _on_machines(folder: Path, kind: str, local: str) -> str:
    _elsewhere(folder, kind)
    training = Training()
    try:
        checkpointer = training.checkpointer(folder / "root", local=local.format(rank=dist.get_rank()))
    except NotImplementedError as error:
        return str(error)
    with checkpointer:
        training.step()
        return str(failure_of(checkpointer.save(1)))


def test_a_disk_of_each_machine_is_refused_and_the_way_out_is_named(tmp_path: Path) -> None:
    for said in run_ranks(_on_machines, 2, tmp_path, "xfs", f"{tmp_path}/local"):
        assert "a file system that every machine mounts" in said
    for said in run_ranks(_on_machines, 2, tmp_path, "nfs4", f"{tmp_path}/local-{{rank}}"):
        assert "local (a folder that all ranks share)" in said


def _differing(folder: Path) -> str:
    training = Training()
    with training.checkpointer(folder / "root", local=folder / f"local-{dist.get_rank()}") as checkpointer:
        training.step()
        return str(failure_of(checkpointer.save(1)))


def test_ranks_with_folders_of_their_own_are_told_so(tmp_path: Path, launch: Launcher) -> None:
    assert any("local (a folder that all ranks share)" in said for said in launch(_differing, 2, tmp_path))
