"""Record: what the devices did. Races, counters, and when each task ran."""

from __future__ import annotations

from typing import NamedTuple

from asyncckpt.testing.simacc import _C


class Ran(NamedTuple):
    """One task of a stream; times in seconds on the monotonic clock."""

    kind: str
    name: str
    device: int
    stream: int
    bytes: int
    queued: float
    began: float
    ended: float


def races() -> list[str]:
    """The races found since the last call, each as one sentence. Empty for a program that orders what it does."""
    return _C.take_races()


def stats() -> dict[str, int]:
    """Counters by name, since `reset`: a copy of them.

    ``kernel``, ``item``, ``collective``, ``d2d`` and ``{d2h,h2d}_{pinned,pageable}`` count what was queued (with
    ``_bytes``); ``host_syncs`` those calls that made the host wait; ``async_ops`` and ``sync_ops`` operators queued and
    waited for; ``streams``, ``record_stream``, ``block_reuse``, ``pinned_allocs``, ``host_registers`` such calls.
    ``live_bytes``, ``peak_bytes``, ``pinned_live_bytes``, ``pinned_reserved_bytes`` measure memory, and are no counts.
    """
    return _C.stats()


def trace() -> list[Ran]:
    """What ran since `reset`, in the order of its end; empty unless the knob ``trace`` is on."""
    return [Ran(*entry) for entry in _C.trace()]


def reset() -> None:
    """Start to count, to trace and to report races anew. What is queued stays, and can still race."""
    _C.reset_stats()
    _C.take_races()


def forget() -> None:
    """Forget all accesses: nothing done until now races with what follows. For between two tests."""
    _C.forget_past()
