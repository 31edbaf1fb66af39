"""Where metrics are served: what the caller says wins over the environment, and that over loopback."""

from __future__ import annotations

import os
import socket
import socketserver
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer, MetricsConfig
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .scraping import scrape, value
from .trainings import Toy

PORT, ADDR, RANK = "ASYNCCKPT_METRICS_PORT", "ASYNCCKPT_METRICS_ADDR", "LOCAL_RANK"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PORT, ADDR, RANK):
        monkeypatch.delenv(name, raising=False)


def free_port(following: int = 1) -> int:
    """A port that nobody listens on at this moment, nor on the `following` - 1 ones after it."""
    first = 10000 + os.getpid() % 1250 * 16  # no other process that tests looks there, and none is given such a one
    for port in (*range(first, 30000, 16), *range(10000, first, 16)):
        probes = [socket.socket() for _ in range(following)]
        try:
            for at, probe in enumerate(probes):
                probe.bind(("127.0.0.1", port + at))
        except OSError:
            continue
        else:
            return port
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free ports")


def test_without_a_word_it_is_a_free_port_on_loopback() -> None:
    config = MetricsConfig()
    assert (config.port, config.addr) == (0, "127.0.0.1")


def test_the_environment_says_where_for_what_the_caller_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT, " 9500 ")
    monkeypatch.setenv(ADDR, "0.0.0.0")  # noqa: S104
    config = MetricsConfig(const_labels={"run": "a"})
    assert (config.port, config.addr) == (9500, "0.0.0.0")  # noqa: S104
    assert MetricsConfig(port=9600).port == 9600
    assert MetricsConfig(port=0).port == 0
    assert MetricsConfig(port=None).port is None
    assert MetricsConfig(addr="127.0.0.3").addr == "127.0.0.3"


def test_empty_variables_say_nothing(monkeypatch: pytest.MonkeyPatch, store: GatedStorage) -> None:
    monkeypatch.setenv(PORT, "")
    monkeypatch.setenv(ADDR, " ")
    assert (MetricsConfig().port, MetricsConfig().addr) == (0, "127.0.0.1")
    with AsyncCheckpointer(store, model=Toy()) as ckpt:
        assert ckpt.metrics_port is None


def test_a_port_in_the_environment_serves_a_training_that_says_nothing_of_metrics(
    monkeypatch: pytest.MonkeyPatch, store: GatedStorage
) -> None:
    port = free_port()
    monkeypatch.setenv(PORT, str(port))
    with AsyncCheckpointer(store, model=Toy()) as ckpt:
        ckpt.save(1).wait()
        assert ckpt.metrics_port == port
        assert value(scrape(port), "asyncckpt_durable_step") == 1


def test_a_keyword_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, store: GatedStorage) -> None:
    said, port = free_port(), free_port(2) + 1
    monkeypatch.setenv(PORT, str(said))
    with AsyncCheckpointer(store, model=Toy(), metrics=port) as ckpt:
        assert ckpt.metrics_port == port
    with AsyncCheckpointer(store, model=Toy(), metrics=MetricsConfig(port=None)) as ckpt:
        assert ckpt.metrics_port is None


def listened_to(port: int | None) -> list[str]:
    """At which addresses this process listens to `port`, which others may have at other addresses."""
    ours = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile, as that of this listing
            ours.add(os.readlink(descriptor))
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    found = [(row[1].partition(":"), f"socket:[{row[9]}]") for row in rows if row[3] == "0A"]
    return [
        socket.inet_ntoa(bytes.fromhex(address)[::-1])
        for (address, _, at), name in found
        if int(at, 16) == port and name in ours
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on all of 127/8")
def test_an_address_in_the_environment_is_served_without_a_word_in_the_code(
    monkeypatch: pytest.MonkeyPatch, store: GatedStorage
) -> None:
    monkeypatch.setenv(ADDR, "127.0.0.2")
    with AsyncCheckpointer(store, model=Toy(), metrics=0) as ckpt:
        socket.create_connection(("127.0.0.2", ckpt.metrics_port), timeout=PATIENCE).close()
        assert listened_to(ckpt.metrics_port) == ["127.0.0.2"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux wakes who waits for a socket that was shut down")
def test_the_end_waits_for_no_look_of_the_server(monkeypatch: pytest.MonkeyPatch, store: GatedStorage) -> None:
    """It looks twice a second whether it is to end: that would be all the time that some preemptions leave."""
    look = socketserver.BaseServer.serve_forever
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", lambda server: look(server, 2 * PATIENCE))
    ckpt = AsyncCheckpointer(store, model=Toy(), metrics=0)
    assert value(scrape(ckpt.metrics_port), "asyncckpt_durable_step") == 0  # it has begun to look
    closing = threading.Thread(target=ckpt.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_a_port_that_is_no_number_is_a_warning_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(PORT, "http")
    with AsyncCheckpointer(store, model=Toy()) as ckpt:
        assert ckpt.metrics_port is None
        assert ckpt.save(1).wait().step == 1
    assert [r.levelname for r in caplog.records if f"{PORT}=http is not a number" in r.getMessage()] == ["WARNING"]


def test_an_address_that_is_not_this_machines_is_a_warning(
    store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    with AsyncCheckpointer(store, model=Toy(), metrics=MetricsConfig(addr="192.0.2.1")) as ckpt:
        assert ckpt.metrics_port is None
        assert ckpt.save(1).wait().step == 1
    assert [r.levelname for r in caplog.records if "192.0.2.1:0 is not to be had" in r.getMessage()] == ["WARNING"]


def test_the_ranks_of_one_host_take_ports_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port(2)
    made = []
    for rank in ("0", "1"):
        monkeypatch.setenv(RANK, rank)
        made.append(AsyncCheckpointer(MemoryStorage(f"ranks-{rank}"), model=Toy(), metrics=first))
    with made[0], made[1]:
        assert [ckpt.metrics_port for ckpt in made] == [first, first + 1]


@pytest.mark.parametrize(("rank", "port", "own"), [("3", 0, 0), ("3", None, None), ("x", 9464, 9464), ("", 9464, 9464)])
def test_only_a_fixed_port_is_shifted_and_only_by_a_rank(
    monkeypatch: pytest.MonkeyPatch, rank: str, port: int | None, own: int | None
) -> None:
    monkeypatch.setenv(RANK, rank)
    assert MetricsConfig(port=port).own_port == own
