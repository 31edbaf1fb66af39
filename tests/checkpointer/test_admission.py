"""What the first save will need and is not there is said before it, in a sentence; and where the limits are read."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from asyncckpt import allowance
from asyncckpt.allowance import Allowance
from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.events import Fallback, Listeners, Shortage
from asyncckpt.saves import admission
from asyncckpt.saves.admission import Admission
from asyncckpt.staging.arena import Arena
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.storage.bounded import bounded
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .conftest import Make
from .trainings import Recorder, Training


def told(recorder: Recorder) -> dict[str, str]:
    return {event.resource: event.sentence for event in recorder.of(Shortage)}


def prepared(make: Make, root: Any, **options: Any) -> None:
    """A training makes one step, after which its first save is prepared."""
    training = Training()
    checkpointer = make(root, model=training.model, optimizer=training.optimizer, **options)
    training.step()
    checkpointer.step(1)
    checkpointer._saver._preparing._admission.wait()


def large() -> Training:
    """One whose optimizer's state takes pages of its own."""
    training = Training()
    training.model = torch.nn.Linear(16, 1024)
    training.optimizer = torch.optim.Adam(training.model.parameters())
    return training


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has enough of everything."""
    monkeypatch.setattr(allowance, "memory", lambda: Allowance(1 << 40, "the machine"))
    monkeypatch.setattr(allowance, "lockable", lambda: None)


# -- what is asked -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("roomy")
def test_where_there_is_enough_nothing_is_said(make: Make, recorder: Recorder, tmp_path: Path) -> None:
    prepared(make, tmp_path / "run")
    assert told(recorder) == {}


def test_too_little_memory_is_said_with_its_limit_and_fails_the_save(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcomes: Callable[[str], float]
) -> None:
    monkeypatch.setattr(allowance, "memory", lambda: Allowance(100, "the cgroup /job"))
    training = Training()
    checkpointer = make(tmp_path / "run", model=training.model, optimizer=training.optimizer)
    training.step()
    checkpointer.step(1)
    size = checkpointer._saver._preparing.planned.layout.size
    sentence = (
        f"a snapshot takes {size:,} bytes of host memory, and the cgroup /job has 100 left: raise its limit by "
        f"{size - 100:,}, or save less"
    )
    assert told(recorder) == {"memory": sentence}
    handle = checkpointer.save(2)
    training.step()  # training goes on
    with pytest.raises(SaveFailed, match=r"needs .* bytes of staging memory .*, the cgroup /job has 100 left: raise"):
        handle.wait()
    assert told(recorder) == {"memory": sentence}  # once, not at every save
    assert outcomes("failed") == 1


@pytest.mark.usefixtures("roomy")
def test_too_little_lockable_memory_is_said_where_a_device_wants_it_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    asked = Admission(MemoryStorage("store"), Listeners([recorder]))
    monkeypatch.setattr(allowance, "lockable", lambda: 1999)
    asked.check(1000, 2, (), None)
    assert told(recorder) == {}  # nothing is to be locked
    asked.check(1000, 2, {"cuda"}, None)
    assert told(recorder)["memlock"].startswith(
        "2,000 bytes of staging memory are to be page-locked for cuda, and RLIMIT_MEMLOCK is 1,999: "
    )
    assert "ulimit -l" in told(recorder)["memlock"]
    monkeypatch.setattr(allowance, "lockable", lambda: 2000)
    asked.check(1000, 2, {"cuda"}, None)
    assert len(recorder.of(Shortage)) == 1


@pytest.mark.usefixtures("roomy")
def test_too_little_room_on_the_disk_is_said_with_what_is_missing(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(admission.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    prepared(make, tmp_path / "not" / "yet" / "there")
    assert set(told(recorder)) == {"disk"}
    assert f"the disk of {tmp_path} has 100 free: make room for " in told(recorder)["disk"]


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("tier", ["local", "mirror"])
def test_so_is_too_little_on_that_of_another_tier(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tier: str
) -> None:
    (tmp_path / "tier").mkdir()
    usage = {tmp_path / "tier": 100}
    monkeypatch.setattr(admission.shutil, "disk_usage", lambda folder: SimpleNamespace(free=usage.get(folder, 1 << 40)))
    prepared(make, tmp_path / "run", **{tier: tmp_path / "tier"})
    assert f"the disk of {tmp_path / 'tier'} has 100 free: make room for " in told(recorder)["disk"]
    assert told(recorder)["disk"].endswith(f", or give {tier}= another folder")


@pytest.mark.usefixtures("roomy")
def test_a_folder_that_may_not_be_written_is_said(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.access  # root, as which tests may run, may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    asked = Admission(LocalStorage(tmp_path / "run"), Listeners([recorder]))
    asked.check(1, 1, (), None)
    asked.wait()
    assert f"{tmp_path} may not be written by this user" in told(recorder)["disk"]


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("is_tier", [False, True])
def test_a_disk_that_hangs_is_said_and_holds_up_nobody(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_tier: bool
) -> None:
    go, asked_for = threading.Event(), list[Path]()

    def hang(folder: Path) -> SimpleNamespace:
        asked_for.append(folder)
        go.wait(2 * PATIENCE)
        return SimpleNamespace(free=100)

    monkeypatch.setattr(admission.shutil, "disk_usage", hang)
    monkeypatch.setattr(admission, "LOOK", 0.0)
    disk = LocalStorage(tmp_path)
    there = (MemoryStorage("store"), {"local": bounded(disk)}) if is_tier else (disk, {})
    asked = Admission(there[0], Listeners([recorder]), there[1])
    for size in (1000, 2000):
        asked.check(size, 1, (), None)
        asked.wait()
    (said,) = recorder.of(Shortage)
    assert said.resource == "disk"
    assert said.sentence == (
        f"the disk of {tmp_path} has not said within 0 s how much room it has: it hangs, or its server does; mend "
        f"that, or {'give local= another folder' if is_tier else 'take another root'}"
    )
    monkeypatch.setattr(admission, "LOOK", PATIENCE)
    go.set()
    asked._asked[next(iter(asked._asked))].result(PATIENCE)
    assert len(asked_for) == 1, "what hangs is not asked again"
    asked.check(3000, 1, (), None)
    asked.wait()
    assert "has 100 free: make room for 2,900" in recorder.of(Shortage)[-1].sentence


@pytest.mark.usefixtures("roomy")
def test_a_root_that_cannot_be_looked_for_fails_the_save_and_no_step(make: Make, tmp_path: Path) -> None:
    training = Training()
    root = tmp_path / ("x" * 300)  # the system says no more of it than of a mount that is gone
    ckpt = make(root, model=training.model, optimizer=training.optimizer)
    training.step()
    assert ckpt.step(1) is None
    with pytest.raises(SaveFailed, match="File name too long"):
        ckpt.save(1).wait()


@pytest.mark.usefixtures("roomy")
def test_a_store_that_cannot_be_read_is_said_and_the_save_fails_with_its_reason(
    make: Make, store: GatedStorage, recorder: Recorder
) -> None:
    store.fail("list", "*", lambda: StorageDenied("no key for this bucket"))
    training = Training()
    checkpointer = make(model=training.model, optimizer=training.optimizer)
    training.step()
    handle = checkpointer.save(1)
    training.step()
    with contextlib.suppress(SaveFailed):
        handle.wait()
    assert "no key for this bucket" in told(recorder)["store"]
    assert "saves will fail until that is mended" in told(recorder)["store"]
    assert f"asyncckpt ls {store.url}" in told(recorder)["store"]  # what to do about it


# -- looked at again ---------------------------------------------------------------------------------------


def test_a_state_that_has_grown_is_looked_at_again_and_said_only_when_that_says_something_else(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(admission.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 40))
    training = large()
    checkpointer = make(tmp_path / "run", model=training.model, optimizer=training.optimizer)
    monkeypatch.setattr(allowance, "memory", lambda: Allowance(1 << 40, "the machine"))
    checkpointer.save(1).wait()  # before the optimizer has any state
    small = checkpointer._saver._preparing.planned.layout.size
    monkeypatch.setattr(allowance, "memory", lambda: Allowance(1, "the machine"))
    checkpointer.step(2)
    assert told(recorder) == {}  # nothing has grown
    training.step()
    checkpointer.step(3)
    size = checkpointer._saver._preparing.planned.layout.size
    assert size > small
    (said,) = recorder.of(Shortage)
    assert f"a snapshot takes {size:,} bytes of host memory, and the machine has" in said.sentence
    for step in (4, 5):
        training.step()
        checkpointer.step(step)
    assert len(recorder.of(Shortage)) == 1


@pytest.mark.usefixtures("roomy")
def test_the_same_sentence_is_said_once_and_another_one_again(recorder: Recorder) -> None:
    asked = Admission(MemoryStorage("store"), Listeners([recorder]))
    for size in (100, 100, 200):
        asked.check(size, 2, (), Allowance(50, "the machine"))
    assert [event.sentence.split(":")[0] for event in recorder.of(Shortage)] == [
        f"a snapshot takes {size} bytes of host memory, and the machine has 50 left" for size in (100, 200)
    ]


@pytest.mark.usefixtures("roomy")
def test_memory_for_the_state_that_appears_later_is_faulted_in_then(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faulted: list[int] = []
    ready = threading.Condition()
    prefault = Arena.prefault

    def watched(arena: Arena, stop: threading.Event) -> None:
        prefault(arena, stop)
        with ready:
            faulted.append(arena.capacity)
            ready.notify_all()

    monkeypatch.setattr(Arena, "prefault", watched)
    training = large()
    checkpointer = make(tmp_path / "run", model=training.model, optimizer=training.optimizer)
    checkpointer.save(1).wait()  # before the optimizer has any state
    small = checkpointer._saver._preparing.planned.layout.size
    training.step()
    checkpointer.step(2)
    size = checkpointer._saver._preparing.planned.layout.size
    assert size > small
    with ready:
        assert ready.wait_for(lambda: len([capacity for capacity in faulted if capacity >= size]) == 2, PATIENCE)
    free = checkpointer._saver._arenas._free
    assert len(free) == 2
    assert all(arena.capacity >= size for arena in free)


@pytest.mark.usefixtures("roomy")
def test_a_shortage_is_a_metric(make: Make, monkeypatch: pytest.MonkeyPatch, registry: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(admission.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    prepared(make, tmp_path / "run")
    said = {name: registry.get_sample_value("asyncckpt_shortage", {"resource": name}) for name in ("disk", "memory")}
    assert said == {"disk": 1, "memory": 0}


# -- where the limits are read -----------------------------------------------------------------------------


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 16000 kB\nMemAvailable: 8000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(folder: str, limit: str, used: int, cache: int) -> dict[str, str]:
    at = f"sys/fs/cgroup/{folder}".rstrip("/")
    return {
        f"{at}/memory.max": f"{limit}\n",
        f"{at}/memory.current": f"{used}\n",
        f"{at}/memory.stat": f"anon {used - cache}\ninactive_file {cache}\n",
    }


def test_without_a_cgroup_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert allowance.memory(machine(tmp_path, {})) == Allowance(8000 * 1024, "the machine")


def test_the_narrowest_of_the_cgroups_above_a_process_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/batch/job/step\n",
        **v2("batch/job/step", "max", 50, 10),
        **v2("batch/job", "1000", 900, 300),
        **v2("batch", "5000", 1000, 0),
    }
    assert allowance.memory(machine(tmp_path, files)) == Allowance(400, "the cgroup /batch/job")


def test_in_a_container_the_mount_is_the_cgroup_itself(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/docker/4f0c\n", **v2("", "2000", 500, 0)}
    assert allowance.memory(machine(tmp_path, files)) == Allowance(1500, "the cgroup /")


def test_a_cgroup_of_version_1_is_read_and_its_number_for_no_limit_understood(tmp_path: Path) -> None:
    at = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "9:cpu,cpuacct:/job\n4:memory:/job\n",
        f"{at}/memory.limit_in_bytes": "3000\n",
        f"{at}/memory.usage_in_bytes": "1000\n",
        f"{at}/memory.stat": "cache 70\ntotal_inactive_file 20\n",
    }
    assert allowance.memory(machine(tmp_path, files)) == Allowance(2020, "the cgroup /job")
    (tmp_path / at / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert allowance.memory(tmp_path) == Allowance(8000 * 1024, "the machine")


def test_a_cgroup_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/job\n", **v2("job", "1000", 1200, 0)}
    assert allowance.memory(machine(tmp_path, files)) == Allowance(0, "the cgroup /job")


def test_a_system_that_does_not_say_sets_no_limit(tmp_path: Path) -> None:
    assert allowance.memory(tmp_path) is None


def test_memory_for_one_generation_only_is_said(
    make: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training = Training()
    options = {"model": training.model, "optimizer": training.optimizer}
    training.step()
    roomy = make(tmp_path / "roomy", **options)
    roomy.step(1)
    size = roomy._saver._preparing.planned.layout.size
    monkeypatch.setattr(allowance, "memory", lambda: Allowance(2 * size, "the cgroup /job"))
    tight = make(tmp_path / "tight", **options)
    tight.save(2)
    training.step()
    tight.wait()
    assert [event.feature for event in recorder.of(Fallback)] == ["generations"]
