"""What these tests stand on: ports that stay those of whom they were given to, and a proxy that leaves nothing open."""

from __future__ import annotations

import gc
import socket
import threading
from contextlib import suppress

import pytest

from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.servers import HOST, HeldPorts

from ..executor.test_gates import left

__all__ = ["left"]

ENDINGS = 30


def test_a_port_that_is_held_is_no_other_s_and_refuses_until_its_program_listens() -> None:
    with HeldPorts(2) as held:
        first, second = held.numbers
        assert first != second
        for _ in range(2):  # its program may be killed, and started again
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HOST, first))
            with socket.create_server((HOST, first)):
                socket.create_connection((HOST, first)).close()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((HOST, second))
    with socket.create_server((HOST, second)):
        pass


def test_a_proxy_that_refuses_while_others_come_leaves_no_connection_open(left: list[str]) -> None:
    with socket.create_server((HOST, 0)) as server:
        ending = threading.Thread(target=end_all, args=(server,))
        ending.start()
        for _ in range(ENDINGS):
            with Proxy(server.getsockname()[1]) as proxy:
                port, over = proxy.port, threading.Event()
                coming = [threading.Thread(target=come, args=(port, over)) for _ in range(4)]
                for each in coming:
                    each.start()
                proxy.wait_for("GET /", times=10)
                proxy.refuse()
                proxy.accept()
                assert proxy.port == port
            over.set()
            for each in coming:
                each.join()
            del proxy
        server.shutdown(socket.SHUT_RDWR)
        ending.join()
    gc.collect()
    assert left == []


def end_all(server: socket.socket) -> None:
    """End each connection without an answer, until the server is shut."""
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def come(port: int, over: threading.Event) -> None:
    """Connect and ask, again and again, up to the end of each connection."""
    while not over.is_set():
        with suppress(OSError), socket.create_connection((HOST, port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            connection.recv(1)
