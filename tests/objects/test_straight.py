"""What is read through sockets of this package's own: whatever happens to them, the client's library reads the rest."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asyncckpt.errors import ObjectNotFound, StorageDenied, StorageError, TransientError
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bucket import signed, trial
from asyncckpt.storage.bucket.client import Found
from asyncckpt.storage.bucket.ranges import Ranges, Reading
from asyncckpt.storage.bucket.straight import Answered, Straight, trusting
from asyncckpt.storage.bucket.tuning import Tuning
from asyncckpt.storage.obstore.client import ObstoreClient
from asyncckpt.storage.obstore.connection import unfit
from asyncckpt.storage.s3.client import S3Client
from asyncckpt.storage.s3.reasons import fault_of
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.s3server import S3Server
from asyncckpt.testing.store import use

from .conftest import HASTY, SOON, Backend, Open
from .test_s3_faults import MIB, WHOLE

SIGNED = r"GET .*/big\?.*X-Amz-Signature"


async def read(store: Storage, start: int = 0, length: int = len(WHOLE)) -> None:
    """Read into memory that is there, and assert that it is what was put."""
    into = bytearray(length)
    await store.get("big", start=start, length=length, into=into)
    assert into == WHOLE[start : start + length]


def test_a_read_into_memory_goes_straight_and_in_ranges(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        await store.put("big", [WHOLE])
        await read(store)
        assert proxy.count(SIGNED) == proxy.count("GET .*/big") == 5
        await read(store, 3 * MIB + 1, 7)
        with pytest.raises(StorageError, match="bytes"):
            await store.get("big", start=len(WHOLE) - 1, length=2, into=bytearray(2))
        with pytest.raises(ObjectNotFound):
            await store.get("none", length=2, into=bytearray(2))
        assert store.fallbacks.keys() <= {"part_retries"}

    use(through(), act)


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (lambda proxy: proxy.add("truncate", SIGNED, after=MIB, times=3), "damaged"),
        (lambda proxy: proxy.add("hang", SIGNED, times=1), "timeout"),
        (lambda proxy: proxy.add("lose", SIGNED, times=2), "reset"),
        (lambda proxy: proxy.add("answer", SIGNED, times=2), "slow_down"),
    ],
)
def test_what_fails_is_counted_and_read_by_the_library(
    through: Open, proxy: Proxy, happens: Callable[[Proxy], None], reason: str
) -> None:
    async def act(store: Any) -> None:
        await store.put("big", [WHOLE])
        happens(proxy)
        await read(store)
        assert store.retries.keys() == {reason}
        assert "reads" not in store.fallbacks

    use(through(tuning=SOON if reason == "timeout" else None), act)


async def renewed(store: Any) -> None:
    """The credentials were refused."""
    connection = store._client.requests.connection
    connection.renew(await store._crossing.call(connection.client))


async def scattered(store: Any, *lengths: int, start: int = 0) -> None:
    """Read one range into several pieces of memory, and assert that each is what was put."""
    pieces = [bytearray(length) for length in lengths]
    await store.scatter("big", start, [memoryview(piece) for piece in pieces])
    assert b"".join(pieces) == WHOLE[start : start + sum(lengths)]


def test_one_request_fills_several_pieces_of_memory(through: Open, proxy: Proxy) -> None:
    async def act(store: Any) -> None:
        await store.put("big", [WHOLE])
        await scattered(store, MIB, 3, 2 * MIB + 1, start=5)
        await scattered(store, 7)
        assert proxy.count(SIGNED) == proxy.count("GET .*/big") == 2
        with pytest.raises(StorageError, match=f"it has {len(WHOLE)} bytes"):
            await store.scatter("big", len(WHOLE) - 2, [memoryview(bytearray(1)), memoryview(bytearray(2))])
        with pytest.raises(ObjectNotFound):
            await store.scatter("none", 0, [memoryview(bytearray(1)), memoryview(bytearray(2))])
        assert store.retries == {}

    use(through(), act)


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (lambda proxy: proxy.add("truncate", SIGNED, after=MIB, times=1), "damaged"),
        (lambda proxy: proxy.add("hang", SIGNED, times=1), "timeout"),
        (lambda proxy: proxy.add("truncate", SIGNED, after=MIB + 1000, times=1), "damaged"),
    ],
)
def test_what_fails_of_several_pieces_is_read_again_whole(
    through: Open, proxy: Proxy, happens: Callable[[Proxy], None], reason: str
) -> None:
    async def act(store: Any) -> None:
        await store.put("big", [WHOLE])
        happens(proxy)
        await scattered(store, MIB, MIB, MIB)
        assert store.retries.keys() == {reason}
        proxy.add("answer", SIGNED, status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
        await scattered(store, MIB, 5, MIB, start=9)
        assert "signed URLs are refused" in store.fallbacks["reads"]

    use(through(tuning=SOON if reason == "timeout" else None), act)


def test_one_url_is_signed_for_all_ranges_of_an_object_until_it_may_be_too_old(
    through: Open, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = ObstoreClient if backend == "obstore" else S3Client
    made: list[str] = []
    real = kind.sign

    def sign(asked: Any, client: Any, name: str) -> Any:
        made.append(name.rpartition("/")[2])
        return real(asked, client, name)

    monkeypatch.setattr(kind, "sign", sign)
    now = [0.0]
    monkeypatch.setattr(signed, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def act(store: Any) -> None:
        await store.put("big", [WHOLE])
        await store.put("other", [b"other"])
        for _ in range(3):
            await read(store, MIB, 2 * MIB)
        await store.get("other", length=5, into=bytearray(5))
        assert made == ["big", "other"]
        now[0] += signed.LIFETIME.total_seconds() / 2
        for _ in range(2):
            await read(store, 0, 5)
        assert made[2:] == ["big"]
        await renewed(store)
        await read(store, 0, 5)
        assert made[2:] == ["big", "big"]

    use(through(), act)


DENIED = b"<Error><Code>AccessDenied</Code></Error>"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the monotonic clock says to whoever tries again after a while."""
    found = [1000.0]
    monkeypatch.setattr(trial, "time", SimpleNamespace(monotonic=lambda: found[0]))
    return found


@pytest.mark.parametrize("status", [403, 301, 206])
def test_where_signed_urls_are_refused_the_library_reads_and_that_is_told(
    through: Open, proxy: Proxy, now: list[float], status: int
) -> None:
    async def act(store: Any) -> None:
        await store.put("big", [WHOLE])
        proxy.add("answer", SIGNED, status=status, body=DENIED)
        await read(store)
        asked = proxy.count(SIGNED)
        assert f"signed URLs are refused (status {status})" in store.fallbacks["reads"]
        for pause, more in (29, 0), (1, 1), (59, 1), (1, 2), (119, 2), (1, 3), (10_000, 4), (479, 4), (1, 5):
            now[0] += pause
            await read(store)
            assert proxy.count(SIGNED) == asked + more
            assert "signed URLs are refused" in store.fallbacks["reads"]
        assert store.retries == {}

    use(through(), act)


def test_what_was_refused_once_is_tried_again_after_a_while(
    through: Open, proxy: Proxy, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asyncckpt")

    async def act(store: Any) -> None:
        await store.put("big", [WHOLE])
        proxy.add("answer", SIGNED, status=403, body=DENIED, times=1)
        await read(store, 0, MIB)
        assert "signed URLs are refused" in store.fallbacks["reads"]
        await read(store, 0, MIB)
        assert proxy.count(SIGNED) == 1
        now[0] += 30
        await read(store, 0, MIB)
        assert proxy.count(SIGNED) == 2
        assert "reads" not in store.fallbacks
        assert "reads go straight again" in caplog.text
        proxy.add("answer", SIGNED, status=403, body=DENIED, times=1)
        await read(store, 0, MIB)
        now[0] += 30  # as after the first time
        await read(store, 0, MIB)
        assert "reads" not in store.fallbacks
        assert store.retries == {}

    use(through(), act)


def test_new_credentials_are_tried_at_once(through: Open, proxy: Proxy, now: list[float]) -> None:
    async def act(store: Any) -> None:
        await store.put("big", [WHOLE])
        proxy.add("answer", SIGNED, status=403, body=DENIED, times=1)
        await read(store, 0, MIB)
        assert "reads" in store.fallbacks
        await renewed(store)
        await read(store, 0, MIB)
        assert proxy.count(SIGNED) == 2
        assert "reads" not in store.fallbacks

    use(through(), act)


def test_a_store_that_was_closed_is_opened_again(through: Open, proxy: Proxy) -> None:
    store = through()

    async def act() -> None:
        await store.put("big", [WHOLE])
        await read(store)
        await store.aclose()

    asyncio.run(act())
    asyncio.run(act())
    assert proxy.count(SIGNED) == 10


def test_an_object_that_is_overwritten_while_it_is_read_is_read_anew(through: Open, s3: S3Server, url: str) -> None:
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    other = bytes(reversed(WHOLE))

    async def act(store: Any) -> None:
        first, begun, versions = store._client.first, 0, [other]

        async def begins(*asked: Any) -> Any:
            nonlocal begun
            begun += 1
            found = await first(*asked)
            if versions:
                with closing(s3.client()) as client:
                    client.put_object(Bucket=bucket, Key=f"{folder}/big", Body=versions.pop())
            return found

        store._client.first = begins
        await store.put("big", [WHOLE])
        for into in None, bytearray(len(WHOLE)):
            assert await store.get("big", length=len(WHOLE), into=into) == other
        assert begun == 3
        versions[:] = [other, WHOLE] * 2
        with pytest.raises(TransientError, match="big: it was overwritten each time that it was read"):
            await store.get("big")

    use(through(), act)


class _Odd:
    """A library whose answers go wrong at their very end."""

    name = "odd"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def straight(self, client: Any) -> None:
        """Nothing does."""

    async def sign(self, client: Any, name: str) -> str:
        """Never asked."""
        raise NotImplementedError

    async def get(self, client: Any, reading: Reading) -> Found:
        """All that is missing, and an error."""
        self.asked.append(reading.filled)
        reading.expect(len(WHOLE))
        reading.add(WHOLE[reading.start + reading.filled : reading.start + reading.count])
        raise ConnectionError("reset")


def test_what_is_there_to_its_last_byte_is_not_asked_for_again(through: Open) -> None:
    async def act(store: Any) -> None:
        library, into = _Odd(), bytearray(9)
        ranges = Ranges(store._client.requests, library, {})
        await store._crossing.call(lambda: ranges.fill("big", memoryview(into), 4, None))
        assert into == WHOLE[4:13]
        assert library.asked == [0]

    use(through(), act)


def test_what_is_refused_to_the_library_too_is_an_error_and_no_fallback(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        await store.put("big", [WHOLE])
        proxy.add("answer", "GET .*/big", status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
        with pytest.raises(StorageDenied, match="access denied"):
            await read(store)
        assert "reads" not in store.fallbacks

    use(through(), act)


def test_a_connection_that_the_store_has_closed_meanwhile_costs_no_attempt(through: Open, proxy: Proxy) -> None:
    async def act(store: Any) -> None:
        await store.put("big", [WHOLE])
        await read(store)
        proxy.refuse()
        proxy.accept()
        await read(store)
        assert store.retries == {}

    use(through(tuning={"attempts": 1}), act)


def test_who_is_cancelled_gets_the_memory_back_at_once_and_nobody_writes_to_it(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        await store.put("big", [WHOLE])
        proxy.add("hang", SIGNED)
        into = bytearray(MIB)
        reading = asyncio.create_task(store.get("big", length=MIB, into=into))
        await proxy.seen(SIGNED)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert proxy.held  # it was not waited for
        proxy.release()
        await read(store)
        assert not any(into)

    use(through(), act)


@pytest.mark.parametrize(
    ("backend", "trust"),
    [
        *[("fsspec", trust) for trust in ("certificate", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "nothing")],
        *[("obstore", trust) for trust in ("certificate", "AWS_CA_BUNDLE", "nothing")],
    ],
    indirect=["backend"],
)
def test_over_tls(
    s3: S3Server, url: str, tmp_path: Path, backend: Backend, trust: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run(["openssl", *made, *name], check=True, capture_output=True)
    with (tmp_path / "cert").open("a", encoding="utf-8") as bundle:
        bundle.write("# Főtanúsítvány\n")  # as bundles have it

    async def act() -> None:
        async with _with_tls(s3, tmp_path) as endpoint:
            variable = trust if trust.endswith("BUNDLE") else "AWS_CA_BUNDLE"
            for other in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
                monkeypatch.delenv(other, raising=False)
            monkeypatch.setenv(variable, str(tmp_path / ("cert" if variable == trust else "none")))
            verify = {"certificate": str(tmp_path / "cert"), "nothing": False}.get(trust)
            said = {"backend": backend, "client_kwargs": {"verify": verify}, "asyncckpt": HASTY}
            store = from_url(url, s3.options(endpoint, **said))
            try:
                await store.put("big", [WHOLE])
                await read(store)
                assert "reads" not in store.fallbacks
            finally:
                await store.aclose()

    asyncio.run(act())


def test_tls_that_breaks_off_is_no_lack_of_trust() -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.close()

    async def act() -> None:
        lines = Straight(Tuning(), lambda: trusting(None, checks=True))
        async with await asyncio.start_server(drop, "127.0.0.1", 0) as server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/big?signed"
            for asked in (lines.read(url, 0, [memoryview(bytearray(4))], None), lines.ask("GET", url)):
                with pytest.raises(ConnectionError) as raised:
                    await asked
                assert fault_of(raised.value).kind == "transient"
        await lines.aclose()

    asyncio.run(act())


def test_an_answer_that_is_cut_short_may_be_asked_for_again() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<List")
        writer.close()

    async def act() -> None:
        lines = Straight(Tuning(), lambda: trusting(None, checks=True))
        async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
            with pytest.raises(ConnectionError) as raised:
                await lines.ask("GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/?uploads")
            assert fault_of(raised.value).kind == "transient"
        await lines.aclose()

    asyncio.run(act())


@pytest.mark.parametrize("start", [4, 0])
def test_bytes_of_another_place_are_no_answer(start: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 4-7/10\r\nContent-Length: 4\r\n\r\n4567")
        writer.close()

    async def act() -> None:
        lines, into = Straight(Tuning(), lambda: trusting(None, checks=True)), bytearray(4)
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/big?signed"
            with nullcontext() if start == 4 else pytest.raises(Answered, match="status 206"):
                await lines.read(url, start, [memoryview(into)], None)
        await lines.aclose()
        assert into == (b"4567" if start == 4 else bytes(4))

    asyncio.run(act())


@asynccontextmanager
async def _with_tls(server: S3Server, folder: Path) -> AsyncIterator[str]:
    """The server behind TLS, with the certificate in `folder`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    passing: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def both_ways(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        writers.append(back)
        ways = [asyncio.create_task(one_way(reader, back)), asyncio.create_task(one_way(there, writer))]
        passing.update(ways)
        await asyncio.gather(*ways, return_exceptions=True)

    relay = await asyncio.start_server(both_ways, "127.0.0.1", 0, ssl=context)
    async with relay:
        yield f"https://localhost:{relay.sockets[0].getsockname()[1]}"
        for way in passing:
            way.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        for writer in writers:  # what is closed takes some turns of the loop, which ends here
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def test_what_has_no_signed_url_or_goes_through_a_proxy_is_left_to_obstore(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert unfit("https://store.example", {}) is None
    assert "not signed" in str(unfit("https://store.example", {"skip_signature": True}))
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert "a proxy" in str(unfit("https://store.example", {}))
    assert unfit("http://store.example", {}) is None
    monkeypatch.setenv("no_proxy", "store.example")
    assert unfit("https://store.example", {}) is None
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("https_proxy")
    monkeypatch.setenv("all_proxy", "http://proxy.example:3128")
    assert "a proxy" in str(unfit("https://store.example", {}))


def test_what_s3fs_is_told_of_connections_is_left_to_it(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        await store.put("big", [WHOLE])
        await read(store)
        assert proxy.count(SIGNED) == 0
        assert "how to connect (proxies_config)" in store.fallbacks["reads"]

    use(through(backend="fsspec", config_kwargs={"proxies_config": {}}), act)


def test_what_is_asked_by_nobody_is_left_to_the_library(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        with pytest.raises(StorageDenied):
            await read(store)
        assert proxy.count(SIGNED) == 0

    use(through(backend="fsspec", anon=True, key=None, secret=None), act)
