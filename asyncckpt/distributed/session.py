"""Session: how ranks know what was said in this life of the job from what an earlier one left in the same store.

The store of ``torchrun`` outlives its workers: after a restart the keys of the attempt before are all there, and to
believe one of them means to resume from what is no more. So rank 0 gives what is said now a name that nobody can have
used, and tells it to each rank together with a word that this rank made up itself.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from torch.distributed.distributed_c10d import Store

from asyncckpt.worker.ranks import hello_key

_NOTHING = "?"
"""What no key holds: everything written is a JSON object."""


def read(store: Store, key: str) -> dict[str, Any] | None:
    """What `key` holds, or None, by one request that cannot wait: ``get`` waits for a key that is not there."""
    found = store.compare_set(key, _NOTHING, _NOTHING).decode()
    value: dict[str, Any] | None = None if found == _NOTHING else json.loads(found)
    return value


class Session:
    """The session of one checkpointer on one rank; all methods are for one thread, but where they say otherwise."""

    def __init__(self, store: Store, rank: int, world: int) -> None:
        self._store = store
        self._rank = rank
        self._nonce = secrets.token_hex(8)
        self._name = self._nonce if rank == 0 else None
        self._unheard = set(range(1, world)) if rank == 0 else set()
        self._welcomed: dict[int, str] = {}

    def join(self) -> None:
        """Ask rank 0 for the session's name."""
        if self._rank != 0:
            self._store.set(f"join/{self._rank}", json.dumps({"nonce": self._nonce}))

    @property
    def known(self) -> str | None:
        """The session's name as far as it was heard; in any thread."""
        return self._name

    def name(self) -> str | None:
        """The session's name, or None as long as rank 0 has not told it."""
        if self._name is None:
            welcome = read(self._store, f"welcome/{self._rank}")
            if welcome is not None and welcome["nonce"] == self._nonce:
                self._name = welcome["session"]
        return self._name

    def keys(self, rank: int) -> tuple[str, str]:
        """Where that rank has asked, and was answered."""
        return f"join/{rank}", f"welcome/{rank}"

    def greet(self) -> bool:
        """Rank 0: answer every rank that has asked; whether all have been heard in this session.

        Who is heard may have asked before, in a life of which only the question is left: that is answered too.
        """
        for rank in sorted(self._unheard):
            if read(self._store, f"{self._name}/{hello_key(rank)}") is not None:
                self._unheard.discard(rank)
                continue
            asked = read(self._store, f"join/{rank}")
            if asked is not None and self._welcomed.get(rank) != asked["nonce"]:
                self._welcomed[rank] = asked["nonce"]
                answer = {"nonce": asked["nonce"], "session": self._name}
                self._store.set(f"welcome/{rank}", json.dumps(answer))
        return not self._unheard
