"""Channel: one end of the socket between trainer and worker process. One JSON object per datagram.

Sending never waits. What must arrive is queued here where the socket is full; what only repeats itself (a watermark) is
left out instead. What is too large for a datagram, because it grows with the number of tensors, goes into shared memory
of its own, and the datagram carries only the descriptor.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from asyncckpt.worker.descriptors import Descriptor, close_in_children
from asyncckpt.worker.process.wire import Message

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

LARGEST = 60_000
"""Bytes of the largest message that goes inline; the socket takes about 200,000 in all."""

_DESCRIPTORS = 4
_BODY = "$body"


@dataclass(frozen=True, slots=True)
class _Outgoing:
    data: bytes
    descriptors: tuple[Descriptor, ...]
    sent: Callable[[], None] | None


class Channel:
    """Sends from any thread; receives in one."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        close_in_children(end)
        self._lock = threading.Lock()
        self._outgoing: deque[_Outgoing] = deque()
        self.is_broken = False
        """Whether the other end can be told nothing any more."""
        self.is_ended = False
        """Whether everything that the other end has sent was received, and no more will come."""

    def fileno(self) -> int:
        """The socket's descriptor, to wait for it."""
        return self._socket.fileno()

    @property
    def is_waiting(self) -> bool:
        """Whether something is queued until the socket takes more."""
        return bool(self._outgoing)

    def post(
        self, message: Message, descriptors: Sequence[Descriptor] = (), *, sent: Callable[[], None] | None = None
    ) -> None:
        """Send `message`, in order and without fail, as long as the other end lives; `sent` is called when it is sent.

        From then on the other end will get it even if this process dies.
        """
        data, body = _encode(message)
        # Duplicates: the caller's may be closed before they are sent.
        kept = tuple(Descriptor(os.dup(d.fileno())) for d in descriptors)
        with self._lock:
            self._outgoing.append(_Outgoing(data, (*kept, *body), sent))
        self.flush()

    def offer(self, message: Message) -> None:
        """Send a small `message` if that can be done now, or not at all."""
        with self._lock:
            if not self._outgoing and not self.is_broken:
                with suppress(OSError):
                    self._socket.send(_encode(message)[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def flush(self) -> None:
        """Send as much of what is queued as the socket takes."""
        done: list[_Outgoing] = []
        with self._lock:
            while self._outgoing and self._sent(self._outgoing[0]):
                done.append(self._outgoing.popleft())
        for outgoing in done:
            if outgoing.sent is not None:
                outgoing.sent()

    def _sent(self, outgoing: _Outgoing) -> bool:
        if self.is_broken:
            return False
        numbers = [descriptor.fileno() for descriptor in outgoing.descriptors]
        try:
            socket.send_fds(self._socket, [outgoing.data], numbers, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:  # the other end is gone: nobody will hear it; what that means is for who waits for an answer
            self.is_broken = True
            return False
        return True

    def receive(self) -> Iterator[tuple[Message, list[Descriptor]]]:
        """Everything that has arrived by now, in order; what is no message at all is an empty one."""
        while not self.is_ended:
            try:
                flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                data, numbers, _, _ = socket.recv_fds(self._socket, 1 << 17, _DESCRIPTORS, flags)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it died with something of ours unread; what it had sent before is still here
            if not data:
                self.is_ended = True
                return
            held = [Descriptor(number) for number in numbers]
            try:
                message = _decode(data, held)
            except (ValueError, IndexError, TypeError, OSError):
                message = {}  # it says nothing, and whoever hears it says so
            yield message, held

    def close(self) -> None:
        """Let go of the socket, and of what was never sent."""
        with self._lock:
            self.is_broken = self.is_ended = True
            self._outgoing.clear()
            self._socket.close()


def _encode(message: Message) -> tuple[bytes, tuple[Descriptor, ...]]:
    data = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(data) <= LARGEST:
        return data, ()
    body = Descriptor(os.memfd_create("asyncckpt-message", os.MFD_CLOEXEC))
    view = memoryview(data)
    while view:
        view = view[os.write(body.fileno(), view) :]
    return json.dumps({_BODY: len(data)}).encode("ascii"), (body,)


def _decode(data: bytes, descriptors: list[Descriptor]) -> Message:
    """The message in `data`, or in the last of the `descriptors`, which is taken out then."""
    message = json.loads(data)
    if isinstance(message, dict) and _BODY in message:
        body = descriptors.pop()
        message = json.loads(os.pread(body.fileno(), message[_BODY], 0))
        body.close()
    if not isinstance(message, dict):
        raise TypeError("a message is an object")
    return message
