"""Exploring: what a network can do to every single request of a writer, one run for each, each run watched.

An exploration is many stories; a story drives one run, on a fresh store, to its end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import combinations, islice, product
from typing import TypeAlias

from asyncckpt.errors import AsyncCkptError
from asyncckpt.format.names import DataDirectory
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.requests import Pause
from tests.worker.drive import Session, drive
from tests.worker.watching import KEEP, Watch, WatchedStorage

Steps: TypeAlias = Collection[int]
Made: TypeAlias = Callable[[], MemoryStorage]
"""What every run begins on: a fresh store of one kind."""

Put: TypeAlias = Callable[[WatchedStorage, int], object]
"""Something to happen to a request."""

MINE, OTHERS, MORE = (11, 12, 13), (21, 22, 23), (31, 32, 33, 34, 35)


class Run:
    """One run: its store, everyone who writes to it, and the requests that something happened to."""

    def __init__(self, store: MemoryStorage) -> None:
        self.watch = Watch(store)
        self.happened_to: list[str] = []
        self.sessions: list[Session] = []

    def connect(self) -> WatchedStorage:
        return WatchedStorage(self.watch)

    async def begin(self, storage: WatchedStorage) -> Session:
        """A session that has resumed, if it could."""
        session = Session(storage, keep=KEEP)
        self.sessions.append(session)
        with suppress(AsyncCkptError):
            listing = await session.resume()
            self.watch.hold_up(listing)
            await session.go_on(listing)
        return session

    async def train(self, storage: WatchedStorage, steps: Steps) -> None:
        """Resume, save, close; what becomes of each save is on the session. Metrics of the second step come late."""
        async with await self.begin(storage) as session:
            for number, step in enumerate(steps):
                await session.save(step)
                if number == 1:
                    with suppress(AsyncCkptError):
                        await session.service.record(step, {"loss": 0.5})

    async def start(self, steps: Steps, stop: int) -> tuple[asyncio.Task[None], Pause]:
        """Begin a training, up to its request number `stop`."""
        storage = self.connect()
        pause, training = storage.pause(stop), asyncio.create_task(self.train(storage, steps))
        await pause.reached(training)
        self.happened_to.append(storage.requests[min(stop, len(storage.requests) - 1)])
        return training, pause


Story: TypeAlias = Callable[[Run], Awaitable[None]]


class Exploration:
    """What was seen in many runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.kinds: set[str] = set()
        """The requests that something happened to, without numbers: ``create commits/N.json``."""
        self.violations: list[str] = []


def explore(
    stories: Iterable[Story], base: Steps = (1, 2, 3), *, first: bool = False, made: Made = MemoryStorage
) -> Exploration:
    """Tell every story (`first`: until one goes wrong), and hold each run to what was promised."""
    exploration, origin = Exploration(), drive(began(base, made))
    for story in stories:
        run = drive(_tell(story, origin, made))
        exploration.runs += 1
        exploration.kinds |= set(map(kind, run.happened_to))
        exploration.violations += [f"{' | '.join(run.happened_to)}: {each}" for each in run.watch.violations]
        if first and exploration.violations:
            break
    return exploration


async def _tell(story: Story, origin: MemoryStorage, made: Made) -> Run:
    run = Run(await copied(origin, made))
    await story(run)
    await run.watch.conclude(run.sessions)
    return run


async def began(steps: Steps, made: Made = MemoryStorage) -> MemoryStorage:
    """A run of an earlier incarnation that saved `steps` and left an attempt without a record; empty without steps."""
    store = made()
    if steps:
        async with Session(store, keep=KEEP) as session:
            for step in steps:
                await session.saved(step)
        await store.put(DataDirectory(9, 9, 1, "0123abcd").pack(0, 1, 0), [b"x"])
    return store


async def copied(store: MemoryStorage, made: Made = MemoryStorage) -> MemoryStorage:
    copy = made()
    async for found in store.list():
        await copy.put(found.key, [await store.get(found.key)])
    return copy


def kind(request: str) -> str:
    """A request without what differs from run to run, and of several keys the first: ``create commits/N.json``."""
    return " ".join(re.sub(r"\d+", "N", re.sub(r"-i\d+-[0-9a-f]{8}", "", request)).split()[:2])


def sent(*writers: Steps, base: Steps = (1, 2, 3), made: Made = MemoryStorage) -> list[str]:
    """The requests of trainings of these steps, one after the other."""

    async def act() -> list[str]:
        run = Run(await began(base, made))
        shared = run.connect()
        for steps in writers:
            await run.train(shared, steps)
        return shared.requests

    return drive(act())


# -- stories -----------------------------------------------------------------------------------------------------


def faults(put: Put, base: Steps = (1, 2, 3), made: Made = MemoryStorage) -> Iterator[Story]:
    """`put` done to each request of a writer."""
    for number in range(len(sent(MINE, base=base, made=made))):
        yield partial(_fault, put, number)


async def _fault(put: Put, number: int, run: Run) -> None:
    faulty = run.connect()
    put(faulty, number)
    await run.train(faulty, MINE)
    run.happened_to.append(faulty.requests[min(number, len(faulty.requests) - 1)])


def zombies(base: Steps = (1, 2, 3), made: Made = MemoryStorage) -> Iterator[Story]:
    """A writer stopped at each of its requests while another trains to its end, then resumed."""
    for number in range(len(sent(MINE, base=base, made=made))):
        yield partial(_zombie, number)


async def _zombie(number: int, run: Run) -> None:
    zombie, pause = await run.start(MINE, number)
    await run.watch.look_closely("stopped")
    await run.train(run.connect(), OTHERS)
    await run.watch.look_closely("overtaken")
    pause.release()
    await zombie


def openers(made: Made = MemoryStorage) -> Iterator[Story]:
    """A writer that takes over stopped at each of its requests while the one that holds the run goes on saving."""
    for number in range(len(sent(MINE, made=made))):
        yield partial(_opener, number)


async def _opener(number: int, run: Run) -> None:
    async with await run.begin(run.connect()) as holder:
        await holder.save(OTHERS[0])
        opener, pause = await run.start(MINE, number)
        for step in MORE:  # so many that retention frees the slot which the opener has seen as the next
            await holder.save(step)
        await holder.tidied()
        await run.watch.look_closely("overtaken")
        pause.release()
        await opener
        await holder.save(29)


def pairs(made: Made = MemoryStorage, every: int = 1) -> Iterator[Story]:
    """Two writers, at every pair of requests (or of `every` pairs one): one stops, another stops, they go on so."""
    numbers = range(len(sent(MINE[:2], made=made)))
    for number, other in islice(product(numbers, numbers), 0, None, every):
        yield partial(_pair, number, other)


async def _pair(number: int, other: int, run: Run) -> None:
    one, pause = await run.start(MINE[:2], number)
    two, stop = await run.start(OTHERS[:2], other)
    pause.release()
    await one
    stop.release()
    await two


def late(
    put: Callable[[WatchedStorage, int, int], object], only: str = "", made: Made = MemoryStorage
) -> Iterator[Story]:
    """`put` done with each put or create of two writers in turn, and each later request of theirs."""
    requests = sent(MINE[:2], OTHERS[:1], made=made)
    for number, after in combinations(range(len(requests)), 2):
        if requests[number].startswith(("put", "create")) and only in requests[number]:
            yield partial(_late, partial(put, after=after), number)


async def _late(put: Put, number: int, run: Run) -> None:
    shared = run.connect()
    put(shared, number)
    await run.train(shared, MINE[:2])
    await run.train(shared, OTHERS[:1])
    run.happened_to.append(shared.requests[number])
