"""Under way: W&B's runs that trackers of this process have begun and not ended, so that none is taken for another's.

W&B has one run that is active in a process, and gives it to whoever begins a second: two of our runs beside each other
would be one there. A run that somebody else has begun is joined; one of another tracker is not.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncckpt.trackers.credentials import check_login, unless_in_environment


@dataclass(frozen=True, slots=True)
class _Begun:
    """A run of the module `wandb`, and the id of the run of ours that it goes with, if there is one."""

    wandb: Any
    run: Any
    owner: str | None


_beginning = threading.Lock()
"""Held while W&B begins a run, which may take for ever: only threads of trackers wait for it."""
_lock = threading.Lock()
_begun: list[_Begun] = []


def join_or_begin(wandb: Any, arguments: Mapping[str, Any], owner: str | None) -> tuple[Any, bool]:
    """The run to use, and whether it was begun here, with those `arguments` of ``wandb.init``, for `owner`.

    Raises `TrackerUnavailable` where a person would have to be asked.
    """
    wanted = unless_in_environment(arguments)
    with _beginning:
        active = wandb.run
        if active is not None and not _is_others(wandb, active, wanted.get("id", active.id)):
            return active, False
        check_login(wandb)
        beside = {"reinit": "create_new"} if any(each.wandb is wandb for each in _all()) else {}
        run = wandb.init(**wanted, **beside)
        with _lock:
            _begun.append(_Begun(wandb, run, owner))
        return run, True


def _is_others(wandb: Any, active: Any, wanted: str) -> bool:
    """Whether a tracker has begun it that wanted a run of another id; in a sweep there is but one."""
    is_ours = any(each.wandb is wandb and each.run is active for each in _all())
    return is_ours and active.id != wanted and not active.sweep_id


def end(run: Any) -> None:
    """Finish a run that was begun here."""
    try:
        run.finish()
    finally:
        with _lock:
            _begun[:] = [each for each in _begun if each.run is not run]


def owner_of(run: Any) -> str | None:
    """The id of the run of ours that one of W&B's goes with, where a tracker has begun it for one."""
    return next((each.owner for each in _all() if each.run is run), None)


def _all() -> tuple[_Begun, ...]:
    with _lock:
        return tuple(_begun)
