"""Digest: the content hash that stands beside every extent, record and manifest.

xxh3-128 runs at memory speed (8 to 16 GB/s on one core, against 1.1 for sha256 with hardware support), so
that integrity costs a save no measurable time. It finds damage; it does not prove who wrote something.
"""

from __future__ import annotations

import xxhash


def digesting() -> xxhash.xxh3_128:
    """The same digest of what comes piece by piece: `update` it, then ask for the `hexdigest`."""
    return xxhash.xxh3_128()


def digest(data: bytes | bytearray | memoryview) -> str:
    """The xxh3-128 of `data`: 32 lower-case hexadecimal digits. Releases the GIL on large inputs."""
    return xxhash.xxh3_128_hexdigest(data)
