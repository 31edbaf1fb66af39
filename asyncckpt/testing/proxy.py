"""Proxy: HTTP on its way to a server and back, and everything that can happen to it there.

::

    with Proxy(server.port) as proxy:
        store = S3Storage(url, server.options(proxy.endpoint))
        proxy.add("lose", "PUT .*run.json", times=1)    # carried out, and the answer never arrives
        proxy.limit(2e6)                                # 2 MB/s of all that is uploaded
        ...
        proxy.heal()

Faults are looked up by ``METHOD /path?query``. Any thread may change them while requests are on their way.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, TypeAlias

from asyncckpt.testing.servers import HOST, HeldPorts

Fault: TypeAlias = Literal["lose", "linger", "reset", "truncate", "hang", "delay", "corrupt", "answer"]
"""What happens to a request::

    answer      a status of the proxy's own; the server never hears of it
    lose        the server carries it out; the connection closes instead of the answer
    linger      the server carries it out; its answer is passed on `seconds` later, or by `release`
    reset       the connection is reset once `after` bytes of the body were passed on
    truncate    the connection closes after `after` bytes of the answer's body
    corrupt     one bit of the answer's body is wrong
    hang        nothing is passed on, and nothing answered, before `release`
    delay       passed on `seconds` later
"""

PATIENCE = 60.0
"""Seconds after which a test that waits for a request that never comes fails instead of hanging."""

_CHUNK = 1 << 16

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"


@dataclass(slots=True)
class _Rule:
    fault: Fault
    pattern: re.Pattern[str]
    times: int | None
    skip: int
    every: int
    after: int
    seconds: float
    status: int
    body: bytes
    seen: int = 0

    def takes(self, line: str) -> bool:
        """Whether it is about this request: of those that match, one after `skip` others, and each `every` after it."""
        if self.times == 0 or not self.pattern.search(line):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.seen - self.skip - 1) % self.every:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class _Closed(Exception):
    """The connection shall end here."""


class Proxy:
    """Passes requests on to ``127.0.0.1:port``; also a context manager.

    `requests` has those that have come, in order, and `held` those of them that hang, or whose answers linger.
    """

    def __init__(self, port: int) -> None:
        self.requests: list[str] = []
        self.held: list[str] = []
        self._released = asyncio.Event()
        self._upstream = port
        self._rules: list[_Rule] = []
        self._rate: float | None = None
        self._free = 0.0
        """When all that has come is through, at that rate; by the loop's clock."""
        self._lock = threading.Lock()
        self._come = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._connections: dict[asyncio.Task[None], socket.socket] = {}
        self._listening: socket.socket | None = None
        self._held = HeldPorts(1)
        (self.port,) = self._held.numbers
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.accept()

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://{HOST}:{self.port}"

    def add(
        self,
        fault: Fault,
        pattern: str = "",
        *,
        times: int | None = None,
        skip: int = 0,
        every: int = 1,
        after: int = 0,
        seconds: float = 0,
        status: int = 503,
        body: bytes = SLOW_DOWN,
    ) -> None:
        """From now on this happens to requests that `pattern` is found in: to `times` of them (all where None).

        Of those that match only each `every`-th counts, beginning with the first after `skip` of them.
        """
        with self._lock:
            self._rules.append(_Rule(fault, re.compile(pattern), times, skip, every, after, seconds, status, body))

    def limit(self, rate: float | None) -> None:
        """From now on the bodies of all requests together pass at `rate` bytes per second, or (None) as they come."""
        self._rate = rate

    def heal(self) -> None:
        """Nothing happens to requests that come from now on; those that hang go on hanging."""
        with self._lock:
            self._rules = []

    def release(self) -> None:
        """From now on nothing hangs and nothing lingers; what did goes on its way."""
        self._loop.call_soon_threadsafe(self._released.set)

    def refuse(self) -> None:
        """Accept no connections from now on, and reset those that there are."""
        self._run(self._refuse())

    def accept(self) -> None:
        """Accept connections (again)."""
        self._run(self._accept())

    def count(self, pattern: str) -> int:
        """How many requests have come that `pattern` is found in."""
        return sum(re.search(pattern, line) is not None for line in tuple(self.requests))

    async def seen(self, pattern: str, times: int = 1) -> None:
        """As `wait_for`, in any event loop."""
        await asyncio.to_thread(self.wait_for, pattern, times)

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Return once so many of them have come. Raises `TimeoutError` where they never do."""
        with self._come:
            if not self._come.wait_for(lambda: self.count(pattern) >= times, PATIENCE):
                raise TimeoutError(f"{self.count(pattern)} requests with {pattern!r} have come, not {times}")

    def wait_until_held(self, unless: Callable[[], bool] = lambda: False) -> bool:
        """Return once a request is held up: True; or False if `unless` comes to hold, see `look`."""
        with self._come:
            if not self._come.wait_for(lambda: self.held or unless(), PATIENCE):
                raise TimeoutError("no request was held up")
            return bool(self.held)

    def look(self) -> None:
        """Have `wait_until_held` ask again."""
        with self._come:
            self._come.notify_all()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._held.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _accept(self) -> None:
        if self._listening is None:
            self._listening = socket.create_server((HOST, self.port))
            self._listening.setblocking(False)
            self._loop.add_reader(self._listening, self._take, self._listening)

    # Not asyncio's server: what that has accepted in the turn in which it is closed, it drops and closes not.
    def _take(self, listening: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):  # who asked has gone again
            accepted, _ = listening.accept()
            accepted.setblocking(False)
            connection = self._loop.create_task(self._connected(accepted))
            self._connections[connection] = accepted
            connection.add_done_callback(self._connections.pop)

    async def _refuse(self) -> None:
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        connections = dict(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        for accepted in connections.values():  # a task that was cancelled before it began has not
            accepted.close()

    # -- one connection ------------------------------------------------------------------------------------

    async def _connected(self, accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted)
        try:
            async with _connection(self._upstream) as (back, forth):
                while await self._request(reader, writer, back, forth):
                    pass
        except (_Closed, OSError, asyncio.IncompleteReadError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                _reset(writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _request(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> bool:
        """Pass on one request and its answer; False where no more comes."""
        head = await _head(reader)
        if not head:
            return False
        line = " ".join(head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2])
        rule = self._rule(line)
        hangs = rule is not None and rule.fault == "hang"
        with self._come:  # not before: whoever sees a request come knows what becomes of it, and that it is held
            self.requests.append(line)
            if hangs:
                self.held.append(line)
            self._come.notify_all()
        if hangs:
            await self._released.wait()
        if rule is not None and rule.fault == "delay":
            await asyncio.sleep(rule.seconds)
        if rule is not None and rule.fault == "answer":
            async for _ in _body(reader, head, line):
                pass
            await self._answer(writer, rule)
            return True
        if rule is not None and rule.fault == "reset" and rule.after == 0:
            _reset(writer)
            raise _Closed
        forth.write(head)
        passed = 0
        async for piece in _body(reader, head, line):
            if rule is not None and rule.fault == "reset" and passed + len(piece) > rule.after:
                forth.write(piece[: rule.after - passed])
                await forth.drain()
                _reset(writer)
                raise _Closed
            passed += len(piece)
            await self._in_turn(len(piece))
            forth.write(piece)
            await forth.drain()
        await self._reply(writer, back, line, rule)
        return True

    async def _in_turn(self, nbytes: int) -> None:
        if self._rate is not None:
            self._free = max(self._free, self._loop.time()) + nbytes / self._rate
            await asyncio.sleep(self._free - self._loop.time())

    async def _linger(self, line: str, seconds: float) -> None:
        with self._come:
            self.held.append(line)
            self._come.notify_all()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._released.wait(), seconds)

    async def _answer(self, writer: asyncio.StreamWriter, rule: _Rule) -> None:
        head = (
            f"HTTP/1.1 {rule.status} Proxy\r\nContent-Type: application/xml\r\nContent-Length: {len(rule.body)}\r\n\r\n"
        )
        writer.write(head.encode() + rule.body)
        await writer.drain()

    async def _reply(
        self, writer: asyncio.StreamWriter, back: asyncio.StreamReader, line: str, rule: _Rule | None
    ) -> None:
        head = await _head(back)
        while head.split(b" ", 2)[1:2] == [b"100"]:
            head = await _head(back)
        if not head:
            raise _Closed
        if rule is not None and rule.fault == "linger":
            await self._linger(line, rule.seconds)
        is_lost = rule is not None and rule.fault == "lose"
        if not is_lost:
            writer.write(head)
        passed = 0
        async for piece in _body(back, head, line, is_answer=True):
            if rule is not None and rule.fault == "truncate" and passed + len(piece) > rule.after:
                writer.write(piece[: rule.after - passed])
                await writer.drain()
                raise _Closed
            is_wrong = rule is not None and rule.fault == "corrupt" and passed == 0
            passed += len(piece)
            if not is_lost:
                writer.write(bytes([piece[0] ^ 1]) + piece[1:] if is_wrong else piece)
                await writer.drain()
        if is_lost:
            raise _Closed

    def _rule(self, line: str) -> _Rule | None:
        with self._lock:
            return next((rule for rule in self._rules if rule.takes(line)), None)


@asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """The head of a message with the empty line at its end, or nothing where the connection ends."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def _body(
    reader: asyncio.StreamReader, head: bytes, line: str, *, is_answer: bool = False
) -> AsyncIterator[bytes]:
    """The body that belongs to `head`, as it is on the wire."""
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if is_answer and (line.startswith("HEAD ") or head.split(b" ", 2)[1] in (b"204", b"304")):
        return
    if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
        while True:
            size = await reader.readuntil(b"\r\n")
            data = await reader.readexactly(int(size.split(b";")[0], 16) + 2)
            yield size + data
            if len(data) == 2:
                return
    left = int(length[1]) if length else 0
    while left:
        piece = await reader.read(min(_CHUNK, left))
        if not piece:
            raise _Closed
        left -= len(piece)
        yield piece


def _reset(writer: asyncio.StreamWriter) -> None:
    """Have the connection end with a reset, as a server that is gone does."""
    with suppress(OSError):
        found = writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
