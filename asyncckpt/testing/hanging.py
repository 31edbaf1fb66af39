"""Hanging: a bounded storage whose patience ends when a test says so, so that no test waits for a disk that hangs.

::

    hang = Hang(nearer, "put", "data/*-step-2-*")     # of `Patient(gated)`
    handle = ckpt.save(2)
    hang.begin()                                      # it is under way, and is left behind
    hang.end()                                        # it comes back
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from asyncckpt.errors import TransientError
from asyncckpt.storage import bounded, stopped
from asyncckpt.storage.bounded import Asked, Bounded
from asyncckpt.storage.recipe import Recipe
from asyncckpt.testing.files import Call, WatchedFiles
from asyncckpt.testing.slow import PATIENCE, GatedStorage, Request

if TYPE_CHECKING:
    import pytest


class Patient(Bounded):
    """Waits for a request of `gated` for ever, or until a `Hang` begins."""

    def __init__(self, gated: GatedStorage) -> None:
        super().__init__(gated)
        self.gated = gated

    def recipe(self) -> Recipe | None:
        """The same in another process, which asks at the same gates."""
        told = super().recipe()
        return None if told is None else Recipe(__name__, "patient", told.argument)

    async def stands_still(self, asked: Asked) -> None:
        """Return once a `Hang` of such requests has begun."""
        try:
            await self.gated._arrive("hang", asked.what)
        except TransientError:
            return
        await asyncio.get_running_loop().create_future()


if sys.platform == "linux":  # where a worker process has a socket to ask through
    from asyncckpt.testing.shared import joined

    def patient(argument: str) -> Patient:
        """The storage of a recipe."""
        return Patient(joined(argument))


class Hang:
    """Requests of one kind hang in `storage` from now on, those whose keys are like `pattern`.

    One that has `begun` is not waited for: whoever asks is told so at once.
    """

    def __init__(self, storage: Patient, request: Request, pattern: str, *, begun: bool = False) -> None:
        gated, what = storage.gated, f"{request} {pattern}"
        self._gate = gated.hold(request, pattern)
        self._patience = gated.hold("hang", what)
        gated.fail("hang", what, TransientError)
        if begun:
            self._patience.open()

    def wait_reached(self) -> None:
        """Return once the first of them is under way."""
        self._gate.wait_reached()

    def begin(self) -> None:
        """From then on nobody waits for them any more."""
        self.wait_reached()
        self._patience.open()

    def end(self) -> None:
        """They come back."""
        self._gate.open()


class HangingFiles(WatchedFiles):
    """Calls for which `hangs` do not come back before `go`; from the first of them on nobody waits for anything."""

    def __init__(self, patch: pytest.MonkeyPatch, hangs: Callable[[Call], bool]) -> None:
        super().__init__()
        self.go = threading.Event()
        self._patch = patch
        self._hangs = hangs

    def around(self, call: Call) -> Any:
        if not self.go.is_set() and self._hangs(call):
            self._patch.setattr(bounded, "PATIENCE", 0.0)
            self.go.wait(2 * PATIENCE)
        return super().around(call)


class HangingReads(HangingFiles):
    """Long reads do."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch, lambda call: call.name == "read" and len(call.arguments[1]) > 1 << 19)


@contextmanager
def hanging_calls(patch: pytest.MonkeyPatch, name: str) -> Iterator[Callable[[str, str], HangingFiles]]:
    """Makes files whose calls like one name, about paths like one pattern, hang to the end of this at most.

    Then threads of the `name` that were begun meanwhile are waited for.
    """
    before, made = set(threading.enumerate()), list[HangingFiles]()
    patch.setattr(bounded, "PATIENCE", 3600.0)
    patch.setattr(bounded, "LOOK", 0.01)
    patch.setattr(stopped, "HELD", 0.0)

    def about(kind: str, pattern: str) -> HangingFiles:
        def hangs(call: Call) -> bool:
            return fnmatch(call.name, kind) and any(fnmatch(path, pattern) for path in call.paths)

        made.append(files := HangingFiles(patch, hangs))
        return files

    yield about
    for files in made:
        files.go.set()
    await_threads(before, name)


def await_threads(before: Collection[threading.Thread], name: str) -> None:
    """Wait for those of this name that were not there `before`."""
    for thread in set(threading.enumerate()) - set(before):
        if thread.name == name:
            thread.join(PATIENCE)
            assert not thread.is_alive()
