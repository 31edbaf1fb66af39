"""Bare: what the server takes and gives, from sockets that do nothing else: no signature, no checksum, no retry.

Four threads with objects of 8 MiB, the size of a part: a put of that many bytes in one request is slower, and an upload
in parts asks for more than its parts.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import starmap
from urllib.parse import urlsplit

from benchmarks.clients import Wait
from benchmarks.clients.place import Place
from benchmarks.clients.raw import KEY, Raw

_PART = 8 << 20
_THREADS = 4


class Bare(Raw):
    """What is asked is signed beforehand."""

    def __init__(self, place: Place, nbytes: int) -> None:
        super().__init__(place, nbytes)
        with closing(place.client()) as client:
            self._puts, self._gets = (
                [
                    client.generate_presigned_url(what, {"Bucket": place.bucket, "Key": f"{KEY}-{at}"})
                    for at, _ in self.pieces(_PART)
                ]
                for what in ("put_object", "get_object")
            )
        self._threads = ThreadPoolExecutor(_THREADS)
        self._own = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def open(self) -> None:
        """Its threads connect as they begin."""

    def begin(self, number: int) -> Wait:
        return lambda: self._each(self._put, self._puts)

    def get(self) -> None:
        self._each(self._get, self._gets)

    def _each(self, call: Callable[[str, memoryview], None], urls: Sequence[str]) -> None:
        pairs = zip(urls, (piece for _, piece in self.pieces(_PART)), strict=True)
        for done in list(starmap(lambda url, piece: self._threads.submit(call, url, piece), pairs)):
            done.result()

    def _put(self, url: str, piece: memoryview) -> None:
        with self._asked("PUT", url, piece) as answer:
            answer.read()

    def _get(self, url: str, piece: memoryview) -> None:
        with self._asked("GET", url, None) as answer:
            filled = 0
            while got := answer.readinto(piece[filled:]):
                filled += got

    def _asked(self, method: str, url: str, body: memoryview | None) -> http.client.HTTPResponse:
        connection = self._connected(urlsplit(url).netloc)
        headers = {} if body is None else {"Content-Length": str(len(body))}
        connection.request(method, url, body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return answer

    def _connected(self, to: str) -> http.client.HTTPConnection:
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection(to)
            self._connections.append(self._own.connection)
        connection: http.client.HTTPConnection = self._own.connection
        return connection

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()
