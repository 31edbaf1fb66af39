"""Weighing: whether a state is worth a worker process (``executor="auto"``), by how fast this machine digests.

In a thread of the trainer a save takes processor time from training, for every byte of the state; a process takes a
start, memory of its own and a message or two whatever the size. The digest stands for the work per byte: it reads each
one, writing leaves most to the drive, and how long it takes is known within milliseconds. So a process is worth it
where to digest the state once takes `WORTH` or longer. What it is worth beside, that it survives the trainer, cannot be
measured: who wants that for a small state says ``executor="process"``.

Nothing else is measured, since nothing else is there to be measured when this is decided. What a thread costs beside
that (each time it needs the interpreter lock it may wait for 5 ms, and training as long) depends on the training loop,
which has made no step yet: a sample of another loop would say nothing. Beside one that counts in Python a process is
the cheaper of the two at every size that the benchmark has, from 1 MiB on: what keeps a small state in a thread is that
a process has to be there at all, to be started (a third of a second), watched and waited for. What the store takes is
the same for both.
"""

from __future__ import annotations

import time

from asyncckpt.events import Weighed
from asyncckpt.format.digest import digest

WORTH = 0.005
"""Seconds of digesting for each save: shorter than most steps, and about 64 MiB on a core of these years.

What a save costs in a thread and in a process, and its digest, for several sizes: ``python -m benchmarks executor``.
"""

BREAK_EVEN = 64 << 20
"""Bytes from which it is a process with several ranks: all must choose alike, and each would measure something else."""

LEAST, MOST = 16 << 20, 256 << 20
"""Bytes within which a measurement decides: below a thread has written it before it matters, above it always does."""

_SAMPLE = 8 << 20
_PASSES = 3


def weigh(nbytes: int, world: int) -> Weighed:
    """Choose for a state of `nbytes` on one of `world` ranks; measures where that decides."""
    if world > 1:
        return _weighed(nbytes, BREAK_EVEN, None)
    if nbytes <= LEAST:
        return _weighed(nbytes, LEAST, None)
    if nbytes > MOST:
        return _weighed(nbytes, MOST, None)
    rate = digest_rate()
    return _weighed(nbytes, int(min(MOST, max(LEAST, rate * WORTH))), rate)


def digest_rate() -> float:
    """Bytes that one core digests per second now; takes some milliseconds.

    The best of a few passes: whatever else runs here makes one slower, and nothing makes it faster.
    """
    sample = bytes(_SAMPLE)
    taken = list[float]()
    for _ in range(_PASSES):
        began = time.perf_counter()
        digest(sample)
        taken.append(time.perf_counter() - began)
    return _SAMPLE / max(min(taken), 1e-9)


def _weighed(nbytes: int, break_even: int, rate: float | None) -> Weighed:
    return Weighed("process" if nbytes > break_even else "thread", nbytes, break_even, rate)
