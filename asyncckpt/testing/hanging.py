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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asyncckpt.errors import TransientError
from asyncckpt.storage import bounded
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
