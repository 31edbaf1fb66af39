"""Room: fresh memory to read into."""

from __future__ import annotations

import mmap
import sys


def room(length: int) -> mmap.mmap:
    """Zeros that begin on a page, of this process alone, and cost nothing before they are touched."""
    if sys.platform == "win32":
        return mmap.mmap(-1, length)
    else:
        # By default it would be shared with children: what a forked loader's worker does to a tensor that was read
        # into it would be seen here. And private memory takes a fifth less time to touch.
        return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
