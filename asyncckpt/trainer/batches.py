"""Batches: those of one loader, epoch after epoch, and how to come back to the middle of one.

A loader with ``state_dict`` and ``load_state_dict`` (torchdata's ``StatefulDataLoader``) is asked for its place. Any
other is replayed: the random states from which it began are put back, and as many batches as were taken are loaded
again. That takes as long as loading them, and is exact for whatever draws random numbers on the way, in workers too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asyncckpt.errors import TrainerError
from asyncckpt.state.stateful import Stateful
from asyncckpt.trainer.generators import generators, parts, set_state, state_of
from asyncckpt.trainer.resume_state import RNGState

logger = logging.getLogger("asyncckpt")

NONE_LEFT = object()


class Batches:
    """Of `loader`, which is called `name` in messages. Whoever calls `place` restores the random states after it."""

    def __init__(self, loader: Iterable[Any], name: str) -> None:
        self.name = name
        self._loader: Any = loader
        self._is_stateful = isinstance(loader, Stateful)
        self._keeps_workers = bool(getattr(loader, "persistent_workers", False))
        self._iterator: Iterator[Any] | None = None
        self._made: dict[str, Any] | None = None
        self._start: dict[str, Any] | None = None
        self._taken = 0
        self.has_ended = False
        """Whether all batches of this epoch were taken."""
        if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
            raise TrainerError(f"{name} is {loader!r}: give something that batches come from, epoch after epoch")
        if self._is_stateful:
            _refuse_what_draws_ahead(loader, name)

    def begin(self, epoch: int) -> None:
        """A new epoch, the one after `epoch` completed ones: samplers and data sets that want to know are told."""
        self._tell(epoch)
        self._start = self._random()
        if self._made is None and self._keeps_workers:
            self._made = self._start
        self._iterator = iter(self._loader)
        self._taken, self.has_ended = 0, False

    def take(self) -> Any:
        """The next batch, or `NONE_LEFT`."""
        batch = NONE_LEFT if self._iterator is None else next(self._iterator, NONE_LEFT)
        if batch is NONE_LEFT:
            self._iterator, self.has_ended = None, True
        else:
            self._taken += 1
        return batch

    @property
    def advice(self) -> str:
        """What to do where it gave none."""
        if isinstance(self._loader, Iterator):
            return "an iterator gives its batches once; give a list, a DataLoader, or an object that makes iterators"
        return "there is nothing in it"

    # -- the place -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where it is now, as plain values and tensors."""
        state: dict[str, Any] = {"generators": self._generators(), "made": self._made, "ended": self.has_ended}
        if self._iterator is None:
            return state
        state["taken"] = self._taken
        if self._is_stateful and self._taken:
            # Not outside of an epoch: torchdata's would begin one then, and draw random numbers for it. Nor before its
            # first batch: a data set that begins anew as it is asked for one still says where the epoch before ended.
            return {**state, "loader": self._loader.state_dict()}
        return {**state, "start": self._start}

    def place(self, state: Mapping[str, Any], epoch: int) -> None:
        """Go to where `state` was taken, in the epoch after `epoch` completed ones; draws random numbers for that."""
        self._tell(epoch)
        self._made, self.has_ended = state["made"], state["ended"]
        if self._keeps_workers and self._made is not None and "loader" not in state:
            self._go_back(self._made)
            # Workers stay for all epochs, and an epoch that has to start them draws one number more.
            self._iterator = iter(self._loader)
        if "taken" not in state:
            self._iterator = None
        elif "loader" in state:
            self._load(state)
        else:
            self._replay(state)
        self._set_generators(state["generators"])

    def _load(self, state: Mapping[str, Any]) -> None:
        if not self._is_stateful:
            raise TrainerError(
                f"{self.name} had a state_dict() when it was saved, and has none now: give the same kind of loader"
            )
        self._loader.load_state_dict(state["loader"])
        self._iterator = iter(self._loader)
        self._taken = state["taken"]

    def _replay(self, state: Mapping[str, Any]) -> None:
        self._start, taken = state["start"], state["taken"]
        if self._start != self._made or self._iterator is None:
            self._go_back(state["start"])
            self._iterator = iter(self._loader)
        if taken:
            logger.warning(
                "%s has no state_dict(): %d batches are loaded again to come back to where it was; "
                "torchdata's StatefulDataLoader does not need that",
                *(self.name, taken),
            )
        for number in range(taken):
            if next(self._iterator, NONE_LEFT) is NONE_LEFT:
                raise TrainerError(f"{self.name} had {taken} batches in this epoch before, and has {number} now")
        self._taken = taken

    # -- random states -------------------------------------------------------------------------------------

    def _random(self) -> dict[str, Any]:
        return {"process": RNGState.capture().to_dict(), "generators": self._generators()}

    def _go_back(self, random: Mapping[str, Any]) -> None:
        RNGState(**random["process"]).restore()
        self._set_generators(random["generators"])

    def _tell(self, epoch: int) -> None:
        for part in parts(self._loader):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def _generators(self) -> list[Any]:
        return [state_of(generator) for generator in generators(parts(self._loader))]

    def _set_generators(self, states: list[Any]) -> None:
        owned = generators(parts(self._loader))
        if len(states) != len(owned):
            raise TrainerError(
                f"{self.name} had {len(states)} generators of its own when it was saved, and has {len(owned)} now"
            )
        for generator, state in zip(owned, states, strict=True):
            set_state(generator, state)


def _refuse_what_draws_ahead(loader: Any, name: str) -> None:
    """Workers are given indices ahead of time; a sampler that draws some of them later has drawn too much by then."""
    sampler = getattr(loader, "sampler", None)
    many = getattr(sampler, "num_samples", 0) > len(getattr(sampler, "data_source", ())) > 0
    if (many or getattr(sampler, "replacement", False)) and getattr(loader, "num_workers", 0):
        raise TrainerError(
            f"{name} draws samples again and again, in workers: its state_dict() does not bring it back exactly; "
            "use num_workers=0, or a torch DataLoader"
        )
