"""Straight: ranges of objects through sockets of its own, from the kernel into the memory where they belong.

Clients put an answer together in memory of their own, from which it is copied once more: that costs two to three times
the processor time that receiving does. They sign what is asked for here, as they sign what they ask for themselves.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from asyncckpt.storage.bucket.client import TOKEN, Found
from asyncckpt.storage.bucket.tuning import Tuning
from asyncckpt.storage.daemons import Daemons
from asyncckpt.storage.reasons import Around

_PARTIAL = 206
_LONGEST = 64 << 10
"""Bytes of an answer that says what is wrong."""


class Answered(Exception):
    """The store has answered something else than the bytes that it was asked for."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body


class Truncated(ConnectionError):
    """Fewer bytes came than there should be."""


class Straight:
    """Reads what signed URLs name; all on one event loop. `trust` says who is trusted, where that is asked."""

    def __init__(self, tuning: Tuning, trust: Callable[[], ssl.SSLContext]) -> None:
        self._tuning = tuning
        self._trust = trust
        self._context: ssl.SSLContext | None = None
        self._threads: Daemons | None = None
        self._idle: defaultdict[str, list[http.client.HTTPConnection]] = defaultdict(list)
        self._lock = threading.Lock()

    async def read(self, url: str, start: int, into: Sequence[memoryview], version: str | None) -> tuple[Found, int]:
        """Read what begins at `start`, of that version, into one piece of memory after the other; the object, and how
        many bytes it had there.

        Raises `Answered`, or what breaks a connection. Nobody writes to `into` any more when this ends.
        """
        asked = _Asked(self, url, start, into, version)
        reading = asyncio.get_running_loop().run_in_executor(self._begun(), asked.carry_out)
        cancelled: asyncio.CancelledError | None = None
        while not reading.done():
            try:
                await asyncio.wait([reading])
            except asyncio.CancelledError as error:
                cancelled = error
                asked.cut()
        if cancelled is None:
            return reading.result()
        if not reading.cancelled():
            reading.exception()  # seen: asyncio would complain about one that nobody asked for
        raise cancelled

    async def ask(self, method: str, url: str) -> tuple[int, str]:
        """The status and the body of an answer that is no object. Raises what breaks a connection."""
        return await asyncio.get_running_loop().run_in_executor(self._begun(), self._ask, method, url)

    def _begun(self) -> Daemons:
        """The threads: a store that was closed may be asked again, and has others then."""
        if self._threads is None:
            self._threads = Daemons(self._tuning.concurrency, "asyncckpt-range")
        return self._threads

    def _ask(self, method: str, url: str) -> tuple[int, str]:
        place = urlsplit(url)
        with _broken():
            connection = self.made(place.scheme, place.netloc)  # seldom enough
            try:
                connection.request(method, f"{place.path}?{place.query}")
                with connection.getresponse() as answer:
                    return answer.status, answer.read().decode(errors="replace")
            finally:
                connection.close()

    def lent(self, scheme: str, host: str) -> tuple[http.client.HTTPConnection, bool]:
        """A connection that nobody else uses, and whether it was used before."""
        with self._lock:
            if idle := self._idle[host]:
                return idle.pop(), True
        return self.made(scheme, host), False

    def made(self, scheme: str, host: str) -> http.client.HTTPConnection:
        """A new one."""
        patience = self._tuning.connect_timeout
        made = http.client.HTTPConnection(host, timeout=patience)
        if scheme == "https":
            with self._lock:
                self._context = self._context or self._trust()
            made = http.client.HTTPSConnection(host, timeout=patience, context=self._context)
        made.connect()
        made.sock.settimeout(self.patience)
        if _waits(made.sock):
            made.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(self.patience))
        return made

    @property
    def patience(self) -> float:
        """Seconds for which a store may be silent."""
        return self._tuning.read_timeout

    def give_back(self, host: str, connection: http.client.HTTPConnection) -> None:
        """It can be used again."""
        with self._lock:
            self._idle[host].append(connection)

    async def aclose(self) -> None:
        """Close the connections, and end the threads."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


class _Asked:
    """One range, which a thread asks for."""

    def __init__(self, lines: Straight, url: str, start: int, into: Sequence[memoryview], version: str | None) -> None:
        self._lines = lines
        self._url = urlsplit(url)
        self._start = start
        self._into = into
        self._length = sum(map(len, into))
        self._headers = {"Range": f"bytes={start}-{start + self._length - 1}"}
        if version is not None:
            self._headers["If-Match"] = version
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def cut(self) -> None:
        """Have `carry_out` end soon; from any thread."""
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                with suppress(OSError):  # not connected any more
                    self._socket.shutdown(socket.SHUT_RDWR)

    def carry_out(self) -> tuple[Found, int]:
        """See `Straight.read`; blocks."""
        with _broken():
            return self._carried_out()

    def _carried_out(self) -> tuple[Found, int]:
        host = self._url.netloc
        connection, is_used = self._lines.lent(self._url.scheme, host)
        try:
            try:
                answer = self._answer(connection)
            except (ConnectionError, ssl.SSLError, http.client.HTTPException):
                if not is_used or self._is_cut:
                    raise
                connection.close()  # by the store, while nobody asked it for anything
                connection = self._lines.made(self._url.scheme, host)
                answer = self._answer(connection)
            found = self._received(answer)
        except BaseException:
            self._let_go()
            connection.close()
            raise
        if self._let_go() or connection.sock is None:  # the store wants no more requests on it
            connection.close()
        else:
            self._lines.give_back(host, connection)
        return found

    def _answer(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        with self._lock:
            if self._is_cut:
                raise ConnectionAbortedError("nobody wants it any more")
            self._socket = connection.sock
        connection.request("GET", f"{self._url.path}?{self._url.query}", headers=self._headers)
        return connection.getresponse()

    def _received(self, answer: http.client.HTTPResponse) -> tuple[Found, int]:
        said = answer.headers
        range_, _, total = str(said["Content-Range"]).partition("/")
        wanted = min(self._length, int(total) - self._start) if total.isdecimal() else -1
        is_it = range_ == f"bytes {self._start}-{self._start + wanted - 1}"
        with answer:
            if answer.status != _PARTIAL or answer.length != wanted or not is_it:
                raise Answered(answer.status, answer.read(_LONGEST).decode(errors="replace"))
            filled = self._fill(answer, wanted)
            if filled < wanted:
                raise Truncated(f"{wanted - filled} of {wanted} bytes did not come")
        return Found(int(total), said["ETag"], said[f"x-amz-meta-{TOKEN}"]), wanted

    def _fill(self, answer: http.client.HTTPResponse, wanted: int) -> int:
        """Receive so many bytes; returns how many came before the end."""
        line = self._socket
        if line is None or not _waits(line):
            return self._poured(answer, wanted)
        filled = self._poured(answer, min(wanted, len(answer.peek())))  # has come with the headers
        line.settimeout(None)
        while filled < wanted and (got := _received(line, between(self._into, filled, wanted))):
            filled += got
        line.settimeout(self._lines.patience)
        return filled

    def _poured(self, answer: http.client.HTTPResponse, wanted: int) -> int:
        filled = 0
        while filled < wanted and (got := answer.readinto(between(self._into, filled, wanted)[0])):
            filled += got
        return filled

    def _let_go(self) -> bool:
        """Whether it was cut."""
        with self._lock:
            self._socket = None
            return self._is_cut


def _broken() -> Around:
    """Around what a connection is asked: whatever breaks it is a `ConnectionError`, unless it is known for more."""

    def meant(error: BaseException) -> Exception | None:
        if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLCertVerificationError):
            return None
        if isinstance(error, OSError | http.client.HTTPException):  # TLS that broke off too, which is no lack of trust
            return ConnectionError(f"{type(error).__name__}: {error}")
        return None

    return Around(meant)


def _waits(line: socket.socket) -> bool:
    """Whether one call to the kernel can wait for many bytes: each more costs a thread the interpreter lock."""
    return sys.platform == "linux" and not isinstance(line, ssl.SSLSocket)


def between(parts: Sequence[memoryview], start: int, end: int) -> list[memoryview]:
    """Bytes ``[start, end)`` of `parts`, which are one after the other."""
    found, at = [], 0
    for part in parts:
        if start < at + len(part) and at < end:
            found.append(part[max(start - at, 0) : end - at])
        at += len(part)
    return found


def _received(line: socket.socket, into: Sequence[memoryview]) -> int:
    if sys.platform == "win32":  # receives into one place at a time
        return line.recv_into(into[0])
    else:
        try:
            return line.recvmsg_into(into, 0, socket.MSG_WAITALL)[0]
        except BlockingIOError:  # so says Linux that `SO_RCVTIMEO` is over
            raise TimeoutError("timed out") from None


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1e6) or 1)


def is_proxied(endpoint: str) -> bool:
    """Whether the environment has what is there asked through a proxy."""
    place = urlsplit(endpoint)
    known = getproxies()
    return bool(known.get(place.scheme) or known.get("all")) and not proxy_bypass(place.hostname or "")


def trusting(certificates: bytes | None, *, checks: bool) -> ssl.SSLContext:
    """Trusts `certificates`, in PEM, or without them those that the system does; anybody unless it `checks`."""
    # Bundles name their authorities in comments, in the letters of their countries.
    given = None if certificates is None else certificates.decode("ascii", "ignore")
    context = ssl.create_default_context(cadata=given)
    if not checks:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
