"""Listening: how one rank waits for a word of another, and finds out that none will come.

It gives up when the other rank has closed its checkpointer, was given other arguments, or has shown for a whole
deadline no sign of being at work on what it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asyncckpt.errors import RankMissing
from asyncckpt.worker.ranks import Ranks, left_key, pulse_key

_FIRST_LOOK = 0.0003
_SLOWEST_LOOK = 0.25
_SHARE = 1 / 8
"""The pause before the next look, as a share of the time waited so far: so much later than it came a word is heard."""
_SIGNS_AFTER = 0.05
"""Seconds of waiting after which it is worth asking whether the other rank is there at all."""


def anything(said: dict[str, Any]) -> bool:
    """Whatever is said concerns a wait."""
    return True


class Listening:
    """Waits for `rank` to write one of `keys` (something that `concerns` this wait): its `word`, for messages.

    Of several that are written by the time of a look, the first of `keys` is the word.

    `task` is what `rank` says it is at work on while the word may still come; `hint` says why it might not.
    """

    def __init__(
        self,
        ranks: Ranks,
        rank: int,
        keys: tuple[str, ...],
        word: str,
        *,
        task: str | None = None,
        hint: str = "",
        concerns: Callable[[dict[str, Any]], bool] = anything,
    ) -> None:
        self._ranks = ranks
        self._rank = rank
        self._keys = keys
        self._word = word
        self._task = task
        self._hint = hint
        self._concerns = concerns
        self._began = time.monotonic()
        self._deadline = self._began + ranks.deadline
        self._sign: dict[str, Any] | None = None
        self._is_gone = False

    @property
    def pause(self) -> float:
        """Seconds until the next look is worth while."""
        return min(max(_FIRST_LOOK, _SHARE * (time.monotonic() - self._began)), _SLOWEST_LOOK)

    @property
    def is_overdue(self) -> bool:
        """Whether a whole deadline has passed since the last sign."""
        return time.monotonic() > self._deadline

    def look(self) -> dict[str, Any] | None:
        """What was said, or None if it may still come; blocks for as long as the store takes to answer.

        Raises `RankMissing` or `RanksDiffer` once it can not come any more, and `ConnectionError`.
        """
        self._ranks.check_alike(self._rank)
        if (said := self._said()) is not None or time.monotonic() < self._began + _SIGNS_AFTER:
            return said
        if self._ranks.peek(left_key(self._rank)) is not None:
            if (said := self._said()) is None:  # it may have been its last
                raise RankMissing(
                    f"no {self._word} from rank {self._rank}: it has closed its checkpointer", [self._rank]
                )
        elif self.is_gone:
            if (said := self._said()) is None:
                raise self.missing()
        elif self.is_overdue:
            self._extend()
        return said

    @property
    def is_gone(self) -> bool:
        """Whether the processes of that rank are seen to be dead; its worker process may have written until then."""
        presence = self._ranks.presence(self._rank)
        self._is_gone = self._is_gone or (presence is not None and presence.is_gone)
        return self._is_gone

    def missing(self) -> RankMissing:
        """The error of a word that did not come in time, or will not come."""
        if self._is_gone:
            return RankMissing(f"no {self._word} from rank {self._rank}: its process is dead", [self._rank])
        return RankMissing(
            f"no {self._word} from rank {self._rank} within {self._ranks.deadline:g} s{self._hint}", [self._rank]
        )

    @contextmanager
    def losable(self) -> Iterator[None]:
        """Within it, a store that does not answer is `RankMissing`."""
        try:
            yield
        except ConnectionError as error:
            raise RankMissing(f"rank {self._rank} cannot be heard any more: {error}", [self._rank]) from error

    def _said(self) -> dict[str, Any] | None:
        for number, key in enumerate(self._keys):
            if (said := self._peek(key)) is not None:
                # Both may have been said after the look at the earlier one: what is said first is heard first.
                before = (self._peek(earlier) for earlier in self._keys[:number])
                return next((found for found in before if found is not None), said)
        return None

    def _peek(self, key: str) -> dict[str, Any] | None:
        said = self._ranks.peek(key)
        return said if said is not None and self._concerns(said) else None

    def _extend(self) -> None:
        former, self._sign = self._sign, self._ranks.peek(pulse_key(self._rank))
        if self._sign is None or self._sign == former or self._task not in self._sign["tasks"]:
            raise self.missing()
        self._deadline = time.monotonic() + self._ranks.deadline


def wait(listening: Listening) -> dict[str, Any]:
    """Block until the word is there; raises as `Listening.look`, but `RankMissing` for a store that is gone."""
    with listening.losable():
        while (said := listening.look()) is None:
            time.sleep(listening.pause)
        return said
