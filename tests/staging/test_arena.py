"""Arenas: host memory that is allocated once, faulted in, used again and again, and never more than the budget."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.allowance import Allowance
from asyncckpt.errors import SaveFailed
from asyncckpt.events import Fallback, Listeners, Staged
from asyncckpt.saves.saving import Saver
from asyncckpt.staging import arena as arenas
from asyncckpt.staging.arena import PAGE, Arena, ArenaPool
from asyncckpt.staging.prefault import NICE, Prefault
from asyncckpt.storage import MemoryStorage
from asyncckpt.worker import memory
from asyncckpt.worker.memory import Mapping

from ..checkpointer.trainings import Recorder
from .held import Net


class Leases:
    """The arenas that saves were made in, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arenas: list[Arena] = []
        lease = ArenaPool.lease

        def watched(pool: ArenaPool, size: int, *, wait: float | None = 0, least: int | None = None) -> Arena | None:
            arena = lease(pool, size, wait=wait, least=least)
            if arena is not None:
                self.arenas.append(arena)
            return arena

        monkeypatch.setattr(ArenaPool, "lease", watched)

    @property
    def ids(self) -> list[str]:
        return [arena.id for arena in self.arenas]


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> Leases:
    return Leases(monkeypatch)


def size_of(model: nn.Module) -> int:
    """How many bytes of staging memory a snapshot of `model` takes."""
    with AsyncCheckpointer(MemoryStorage("size"), model=model) as checkpointer:
        return checkpointer._saver._preparing.plan(checkpointer._saver._capture.read()).layout.size


# -- one arena ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_P3_an_arena_is_whole_pages_and_aligned_to_them(size: int) -> None:
    arena = Arena(size)
    assert arena.capacity % PAGE == 0
    assert max(size, 1) <= arena.capacity == len(arena.view) == arena.tensor.numel()
    assert arena.tensor.data_ptr() % PAGE == 0
    arena.tensor[-1] = 7
    assert arena.view[-1] == 7


def resident(arena: Arena) -> int:
    """Bytes of it that are in memory: those of the whole process are also other threads'."""
    at, counted = arena.tensor.data_ptr(), 0
    first = last = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, last = (int(edge, 16) for edge in span.groups())
        elif line.startswith("Rss:") and first < at + arena.capacity and at < last:
            counted += int(line.split()[1]) << 10
    return counted


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("memfd", [True, False])
def test_P3_prefault_makes_every_page_resident(memfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memfd:
        monkeypatch.delattr(os, "memfd_create")
    arena = Arena(80 << 20)
    assert resident(arena) < 5 << 20
    arena.prefault(threading.Event())
    assert resident(arena) > 75 << 20
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    arena.tensor.fill_(1)
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - faults < 100, "readable, but not writable yet"


def test_P3_prefault_leaves_bytes_alone_since_a_save_may_write_them_at_the_same_time() -> None:
    arena = Arena(4 * PAGE)
    arena.tensor.fill_(3)
    written = arena.tensor._version
    arena.prefault(threading.Event())
    assert arena.tensor._version == written, "a byte that is read and written back may overwrite a newer one"
    assert arena.tensor.eq(3).all()


class Refusing:
    """What `Mapping.collapse` is replaced by: how often it was asked, and what it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.asked: list[tuple[int, int]] = []
        self._number = number
        monkeypatch.setattr(Mapping, "collapse", lambda mapping, start, end: self._collapse(start, end))

    def _collapse(self, start: int, end: int) -> None:
        self.asked.append((start, end))
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.skipif(sys.platform != "linux", reason="there are no huge pages to ask for")
@pytest.mark.parametrize(("number", "asks"), [(errno.ENOMEM, 1), (errno.EINVAL, 1), (errno.EAGAIN, 3)])
def test_P3_every_page_is_resident_where_the_kernel_gives_no_huge_ones(
    number: int, asks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that gives none is not asked again; one that could not, since a save uses these pages, is, and once more."""
    monkeypatch.setattr(memory, "_huge_page", lambda: 2 << 20)
    refusing = Refusing(monkeypatch, number)
    arena = Arena((40 << 20) + PAGE)
    arena.prefault(threading.Event())
    whole = [(0, 16 << 20), (16 << 20, 32 << 20), (32 << 20, (40 << 20) + PAGE)]
    assert refusing.asked == whole[:asks]
    assert arena.small_pages == (str(OSError(number, os.strerror(number))) if number == errno.EINVAL else "")
    assert resident(arena) >= arena.capacity
    refusing.asked.clear()
    arena.collapse_rest(threading.Event())
    assert refusing.asked == (whole if number == errno.EAGAIN else [])


@pytest.mark.skipif(sys.platform != "linux", reason="there are no huge pages to ask for")
@pytest.mark.parametrize(("kinds", "times"), [([], 2), (["cuda"], 1)])
def test_P3_what_a_save_was_using_is_asked_for_once_more_unless_it_is_page_locked_by_then(
    kinds: list[str], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_huge_page", lambda: 2 << 20)
    refusing = Refusing(monkeypatch, errno.EAGAIN)
    recorder = Recorder()
    prefault = Prefault(lambda arena, kind: None, Listeners([recorder]))
    prefault.start([Arena(4 << 20), Arena(6 << 20)], kinds)
    for thread in prefault._threads:
        thread.join()
    assert refusing.asked == [(0, 4 << 20), (0, 6 << 20)] * times
    assert recorder.of(Fallback) == []


@pytest.mark.skipif(sys.platform != "linux", reason="there are no huge pages to ask for")
def test_P3_a_kernel_that_makes_no_huge_pages_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_huge_page", lambda: 2 << 20)
    Refusing(monkeypatch, errno.EINVAL)
    recorder = Recorder()
    prefault = Prefault(lambda arena, kind: None, Listeners([recorder]))
    prefault.start([Arena(4 << 20), Arena(4 << 20)], [])
    for thread in prefault._threads:
        thread.join()
    (told,) = recorder.of(Fallback)
    assert (told.feature, "Invalid argument" in told.reason) == ("huge pages", True)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no memfd to begin with")
def test_P3_a_forked_process_does_not_keep_an_arena() -> None:
    script = """
import os, mmap, ctypes
from asyncckpt.staging.arena import Arena
arena = Arena(1 << 20)
def mapped():
    return "asyncckpt-arena" in open("/proc/self/maps").read()
assert mapped()
if os.fork() == 0:
    os._exit(mapped())
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_P3_without_memfd_memory_is_anonymous_and_saves_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    model, store = Net(), MemoryStorage("anonymous")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        for step in (1, 2, 3):
            model.linear.weight.data.fill_(step)
            checkpointer.save(step).wait()
            assert asyncckpt.load(store).state["model"]["linear.weight"].eq(step).all()


# -- a pool of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("generations", [1, 2, 3])
def test_P3_saves_use_the_same_arenas_again(leases: Leases, generations: int) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    with AsyncCheckpointer(
        MemoryStorage("reuse"), model=model, optimizer=optimizer, generations=generations
    ) as checkpointer:
        for step in range(1, 13):
            checkpointer.save(step)
    assert len(leases.ids) == 12
    assert len(set(leases.ids)) <= generations


def test_P3_arenas_are_made_and_faulted_in_before_the_first_save(monkeypatch: pytest.MonkeyPatch) -> None:
    faulted, both = [], threading.Event()
    prefault = Arena.prefault

    def watched(arena: Arena, stop: threading.Event) -> None:
        prefault(arena, stop)
        faulted.append(arena.id)
        if len(faulted) == 2:
            both.set()

    monkeypatch.setattr(Arena, "prefault", watched)
    leases = Leases(monkeypatch)
    model = Net()
    with AsyncCheckpointer(MemoryStorage("first"), model=model, save=SavePolicy(every_steps=9)) as checkpointer:
        checkpointer.step(1)
        assert both.wait(60)
        checkpointer.save(2).wait()
        checkpointer.save(3).wait()
    assert set(leases.ids) <= set(faulted)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_P3_faulting_memory_in_gives_way_to_training(monkeypatch: pytest.MonkeyPatch) -> None:
    found, faulted = [], threading.Event()

    def watched(arena: Arena, stop: threading.Event) -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        faulted.set()

    monkeypatch.setattr(Arena, "prefault", watched)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with AsyncCheckpointer(MemoryStorage("nice"), model=Net(), save=SavePolicy(every_steps=9)) as checkpointer:
        checkpointer.step(1)
        assert faulted.wait(60)
    assert found[0] == min(before + NICE, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_P3_closing_ends_the_faulting(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, stopped, before = threading.Event(), threading.Event(), set(threading.enumerate())

    def until_stopped(arena: Arena, stop: threading.Event) -> None:
        begun.set()
        if stop.wait(60):
            stopped.set()

    monkeypatch.setattr(Arena, "prefault", until_stopped)
    with AsyncCheckpointer(MemoryStorage("stop"), model=Net(), save=SavePolicy(every_steps=9)) as checkpointer:
        checkpointer.step(1)
        assert begun.wait(60)
    assert stopped.is_set()
    assert not any(thread.name == "asyncckpt-prefault" for thread in set(threading.enumerate()) - before)


def test_P3_a_stopped_faulting_touches_nothing_more() -> None:
    arena, stop = Arena(40 << 20), threading.Event()
    stop.set()
    before = resident(arena)
    arena.prefault(stop)
    assert resident(arena) - before < 20 << 20


@pytest.mark.parametrize("end", ["", "del checkpointer"])
def test_P3_a_process_that_ends_while_memory_is_faulted_in_ends_well(end: str) -> None:
    script = """
import torch
from torch import nn
from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.storage import MemoryStorage

model = nn.ParameterList([torch.zeros(200_000_000)])  # some 0.7 s of it
checkpointer = AsyncCheckpointer(MemoryStorage("ends"), model=model, save=SavePolicy(every_steps=9), executor="thread")
checkpointer.step(1)
"""
    command = [sys.executable, "-c", script + end]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_P3_the_arena_that_was_just_released_is_leased_next(leases: Leases) -> None:
    """The other may not be resident yet."""
    model = Net()
    with AsyncCheckpointer(MemoryStorage("next"), model=model, save=SavePolicy(every_steps=9)) as checkpointer:
        checkpointer.step(1)
        for step in (2, 3, 4):
            checkpointer.save(step).wait()
            checkpointer.wait()
    assert len(leases.ids) == 3
    assert len(set(leases.ids)) == 1


def test_P3_an_arena_grows_with_the_state_and_the_small_ones_are_let_go(leases: Leases) -> None:
    model, store = nn.ParameterList([torch.ones(10)]), MemoryStorage("grow")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step).wait()
        small = leases.arenas[-1].capacity
        model.append(torch.ones(100_000))
        for step in (4, 5, 6):
            checkpointer.save(step).wait()
        assert checkpointer._saver._arenas.spares(leases.arenas[-1].capacity) == []
        free = checkpointer._saver._arenas._free
        assert {arena.capacity for arena in free} == {leases.arenas[-1].capacity}
    assert leases.arenas[-1].capacity > 400_000 > small
    assert asyncckpt.load(store, 3).state["model"].keys() == {"0"}
    assert asyncckpt.load(store, 6).state["model"]["1"].numel() == 100_000


def test_P3_a_budget_for_one_generation_is_told_once_and_saves_go_on(leases: Leases) -> None:
    model, recorder = Net(), Recorder()
    budget = size_of(model) + PAGE
    with AsyncCheckpointer(MemoryStorage("one"), model=model, budget=budget, listeners=[recorder]) as checkpointer:
        for step in (1, 2, 3, 4):
            checkpointer.save(step)
        checkpointer.wait()
        assert [info.step for info in checkpointer.checkpoints()] == [1, 2, 3, 4]
    (event,) = recorder.of(Fallback)
    assert event.feature == "generations"
    assert f"budget={budget:,}" in event.reason
    assert len(set(leases.ids)) == 1


def test_P3_a_budget_for_none_fails_the_handle_with_the_number_that_is_needed() -> None:
    model, store = Net(), MemoryStorage("none")
    needed = size_of(model)
    with AsyncCheckpointer(store, model=model, budget=needed - 1, save=SavePolicy(every_steps=2)) as checkpointer:
        assert checkpointer.step(1) is None  # preparing for the first save says nothing
        handle = checkpointer.step(2)
        with pytest.raises(SaveFailed, match=f"raise budget= to at least {needed:,}, or save less"):
            handle.wait()
        assert handle.status == "failed"
    with AsyncCheckpointer(store, model=model, budget=needed) as checkpointer:
        assert checkpointer.save(2).wait().step == 2


def test_P3_a_state_that_outgrows_the_budget_fails_and_one_that_shrinks_again_is_saved() -> None:
    model = nn.ParameterDict({"small": torch.ones(10)})
    with AsyncCheckpointer(MemoryStorage("outgrow"), model=model, budget=2 * size_of(model)) as checkpointer:
        checkpointer.save(1).wait()
        model["large"] = torch.ones(100_000)
        with pytest.raises(SaveFailed, match="budget"):
            checkpointer.save(2).wait()
        del model["large"]
        assert checkpointer.save(3).wait().step == 3


def test_P3_no_memory_fails_the_save_and_never_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    real = arenas.mapped

    def none_left(size: int) -> object:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(arenas, "mapped", none_left)
    with AsyncCheckpointer(MemoryStorage("full"), model=Net(), save=SavePolicy(every_steps=2)) as checkpointer:
        assert checkpointer.step(1) is None
        handle = checkpointer.step(2)
        with pytest.raises(SaveFailed, match="Cannot allocate memory"):
            handle.wait()
        monkeypatch.setattr(arenas, "mapped", real)
        assert checkpointer.step(4).wait().step == 4


def test_P3_memory_for_one_generation_only_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = arenas.mapped, iter([True])

    def one_left(size: int) -> object:
        if next(left, False):
            return real(size)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(arenas, "mapped", one_left)
    with AsyncCheckpointer(MemoryStorage("one"), model=Net()) as checkpointer:
        for step in (1, 2, 3):
            assert checkpointer.save(step).wait().step == step


def test_P3_every_arena_comes_back_however_a_save_ends() -> None:
    model, recorder = Net(), Recorder()
    optimizer = torch.optim.SGD(model.parameters())
    with AsyncCheckpointer(
        MemoryStorage("ends"), model=model, optimizer=optimizer, verify="always", listeners=[recorder]
    ) as checkpointer:
        pool = checkpointer._saver._arenas
        for step in range(1, 7):
            handle = checkpointer.save(step)
            recorder.wait_for(Staged, step)
            if step % 2:  # torn
                model.linear.weight.data.add_(1)
            optimizer.step()
            try:
                handle.wait()
            except SaveFailed:
                assert step % 2
        assert pool._leased == {}


# -- never more than the budget ----------------------------------------------------------------------------


class Unlimited:
    """No limit is known."""

    def memory(self, need: int, held: int) -> Allowance | None:
        return None

    def again(self) -> Allowance | None:
        return None


class Told(Unlimited):
    """Less is left at each time that it is asked; `turned_out` is what it says then."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.turned_out: Allowance | None = None

    def memory(self, need: int, held: int) -> Allowance | None:
        self.asked.append((need, held))
        return Allowance(140 * PAGE - 40 * PAGE * len(self.asked), "the machine")

    def again(self) -> Allowance | None:
        return self.turned_out


def test_P3_what_is_there_is_looked_at_again_when_the_state_has_grown_and_counts_what_is_held_already() -> None:
    limits, told = Told(), list[str]()
    pool = ArenaPool(2, None, told.append, limits)
    first = pool.lease(20 * PAGE)
    assert first is not None
    first.prefault(threading.Event())
    pool.lease(21 * PAGE)  # hardly more
    assert limits.asked == [(20 * PAGE, 0)]
    pool.release(first)
    pool.shape(30 * PAGE)  # an optimizer has its state now, which took the rest
    assert limits.asked[1:] == [(30 * PAGE, 20 * PAGE)]
    (reason,) = told
    assert reason == f"2 generations of {30 * PAGE:,} bytes do not fit in 90% of what is there: the machine has " + (
        f"{60 * PAGE:,} left"
    )
    pool.close()


def test_P3_what_turns_out_to_be_less_is_all_that_is_held_from_the_next_lease_on() -> None:
    limits, told = Told(), list[str]()
    pool = ArenaPool(2, None, told.append, limits)
    first, second = pool.lease(20 * PAGE), pool.lease(20 * PAGE)
    assert first is not None
    assert second is not None
    limits.turned_out = Allowance(40 * PAGE, "the machine", part=0.4, ranks=2)
    pool.look_again()
    for arena in (first, second):
        pool.release(arena)
    assert pool.lease(20 * PAGE) is second
    assert pool.free == ()
    assert [first.is_dropped, second.is_dropped] == [True, False]
    assert "has 163,840 left for this rank, one of 2 that share it" in told[0]


@given(
    budget=st.integers(1, 24) | st.none(),
    generations=st.integers(1, 4),
    calls=st.lists(st.tuples(st.sampled_from(["lease", "release", "spares"]), st.integers(1, 12)), max_size=40),
)
@settings(deadline=None, max_examples=150)
def test_P3_a_pool_never_holds_more_than_its_budget_and_its_generations(
    budget: int | None, generations: int, calls: list[tuple[str, int]]
) -> None:
    pool = ArenaPool(generations, None if budget is None else budget * PAGE, lambda reason: None, Unlimited())
    leased: list[Arena] = []
    for call, number in calls:
        if call == "release":
            if leased:
                pool.release(leased.pop(number % len(leased)))
        elif budget is not None and number > budget:
            with pytest.raises(SaveFailed):
                getattr(pool, call)(number * PAGE)
        elif call == "spares":
            assert all(arena.capacity >= number * PAGE for arena in pool.spares(number * PAGE))
        else:
            arena = pool.lease(number * PAGE)
            if arena is not None:
                assert arena.capacity >= number * PAGE
                assert arena not in leased
                leased.append(arena)
            else:
                assert leased, "a free pool has an arena for every size within its budget"
        held = leased + pool._free
        assert len(leased) <= generations
        assert budget is None or sum(arena.capacity for arena in held) <= budget * PAGE


def test_P3_who_waits_for_an_arena_gets_the_one_that_comes_free() -> None:
    pool = ArenaPool(1, None, lambda reason: None, Unlimited())
    first = pool.lease(PAGE)
    assert pool.lease(PAGE) is None
    got: list[Arena | None] = []
    thread = threading.Thread(target=lambda: got.append(pool.lease(PAGE, wait=None)))
    thread.start()
    pool.release(first)
    thread.join(60)
    assert got == [first]
    pool.close()
    assert pool.spares(PAGE) == []


def test_P3_closing_a_pool_lets_its_memory_go() -> None:
    saver: Saver | None = None
    with AsyncCheckpointer(MemoryStorage("closed"), model=Net()) as checkpointer:
        checkpointer.save(1).wait()
        saver = checkpointer._saver
    assert saver._arenas._free == []
    assert saver.stager._schedules == {}
