"""Among: the ranks of one training open one run. Rank 0 looks and writes; the others hear what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncckpt.distributed.coordinator import FAREWELL, Place
from asyncckpt.errors import CheckpointDirectoryExistsError, CheckpointNotFoundError, RunRefused
from asyncckpt.worker.listening import Listening, wait
from asyncckpt.worker.ranks import at_work

_KEY = "run"
_TASK = "open"
_KINDS: Mapping[str, type[Exception]] = {
    "exists": CheckpointDirectoryExistsError,
    "missing": CheckpointNotFoundError,
}
"""Errors that are the same on every rank."""


def opened_by_all(here: Place, arguments: Mapping[str, str], act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``act()`` on rank 0 returns, which is JSON, on every rank; all raise if it does.

    Raises `RanksDiffer` where the ranks were given other `arguments`, and `RankMissing` if rank 0 does not answer.
    """
    ranks = here.ranks({"call": "Run.open", **arguments})
    try:
        if here.rank != 0:
            said = wait(Listening(ranks, 0, (_KEY,), "run", task=_TASK, hint=": every rank has to call Run.open()"))
            if "error" in said:
                raise _KINDS.get(said["kind"], RunRefused)(said["error"])
            found: dict[str, Any] = said["run"]
            return found
        with at_work(ranks, _TASK):
            try:
                opened = act()
            except BaseException as error:
                kind = next((name for name, known in _KINDS.items() if isinstance(error, known)), "other")
                ranks.tell(_KEY, {"error": _words(error, kind), "kind": kind})
                raise
        ranks.tell(_KEY, {"run": opened})
        return opened
    finally:
        ranks.part(FAREWELL)


def _words(error: BaseException, kind: str) -> str:
    return str(error) if kind != "other" else f"rank 0 could not open the run: {type(error).__name__}: {error}"
