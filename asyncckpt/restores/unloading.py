"""Unloading: bytes on their way from a store to a device, through a few rooms of page-locked memory.

While one room is copied to the device the next is filled from the store, and neither waits for the other: a room is
used again once the device says that it has read it. Copies run on the side stream, which waits for what the calling
thread has asked of the device before, so that nothing is written over that a kernel still reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from asyncckpt.fetching.arriving import IN_FLIGHT, PIECE, Room
from asyncckpt.format.contents import Extent
from asyncckpt.staging.streams import has_streams, stream_device
from asyncckpt.state.landing import memory_of

MOST = IN_FLIGHT + 2
"""Rooms: one for each request under way, and two that are being copied to the device."""


@dataclass(slots=True)
class PinnedRoom:
    """A room, and what the device has still to do with it."""

    tensor: Tensor
    memory: memoryview
    copies: list[torch.Event] = field(default_factory=list)


class PinnedRooms:
    """Rooms in memory that a device reads by itself, where it can be had; in plain memory copies block.

    `slower` is told of a feature that cannot be had, and why.
    """

    def __init__(self, slower: Callable[[str, str], None]) -> None:
        self._free: deque[Any] = deque()
        self._made = 0
        self._slower = slower

    def lend(self) -> Room:
        """See `asyncckpt.fetching.arriving.Rooms.lend`."""
        if self._made < MOST and not (self._free and all(copy.query() for copy in self._free[0].copies)):
            self._made += 1
            return self._room()
        room: PinnedRoom = self._free.popleft()
        for copy in room.copies:
            copy.synchronize()
        room.copies.clear()
        return room

    def give_back(self, room: Room) -> None:
        """See `asyncckpt.fetching.arriving.Rooms.give_back`."""
        self._free.append(room)

    def _room(self) -> PinnedRoom:
        try:
            tensor = torch.empty(PIECE, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:  # memory that may be page-locked has a limit of its own
            self._slower("pinned memory", f"copies to a device that is restored to block: {error}")
            tensor = torch.empty(PIECE, dtype=torch.uint8)
        return PinnedRoom(tensor, memory_of(tensor))


class OnDevice:
    """A dense tensor on a device, as a destination of what `extents` hold."""

    memory = None

    def __init__(self, tensor: Tensor, extents: tuple[Extent, ...]) -> None:
        self.extents = extents
        self.device = tensor.device
        # Not the caller's: copying into it makes a version of its own of every view.
        self._bytes = tensor.detach().reshape(-1).view(torch.uint8)

    def take(self, at: int, room: Any, start: int, length: int) -> None:
        """Enqueue the copy, or make it where the device has no streams."""
        source, target = room.tensor[start : start + length], self._bytes[at : at + length]
        if not has_streams(self.device.type):
            target.copy_(source)
            return
        side = stream_device(self.device)
        with side.side():
            target.copy_(source, non_blocking=True)
        room.copies.append(side.mark_side())


@contextmanager
def unloading(devices: Collection[torch.device]) -> Iterator[None]:
    """Around what brings bytes to `devices`: begins after all that this thread has asked of them, and ends complete."""
    follow(devices)
    try:
        yield
    finally:
        for device in devices:
            if has_streams(device.type):
                stream_device(device).drain()


def follow(devices: Iterable[torch.device]) -> None:
    """Have what is copied to `devices` come after all that this thread has asked of them until now."""
    for device in devices:
        if has_streams(device.type):
            side = stream_device(device)
            with side.side(side.mark()):
                pass


def use_here(tensors: Iterable[Tensor]) -> None:
    """Say that this thread's streams use `tensors`, whose memory another thread has asked for."""
    for tensor in tensors:
        if has_streams(tensor.device.type):
            tensor.record_stream(torch.accelerator.current_stream(tensor.device))
