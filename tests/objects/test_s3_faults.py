"""What can happen to the requests of an S3 store: it is got over, or said; and nothing half done is left or seen."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from asyncckpt.errors import ObjectExists, OutcomeUnknown, StorageDenied, StorageError, TransientError
from asyncckpt.storage.base import Lasting, PutMode, Storage
from asyncckpt.storage.obstore.client import ObstoreClient
from asyncckpt.testing.proxy import Fault, Proxy
from asyncckpt.testing.s3server import STRANGER, STRANGERS_SECRET, S3Server
from asyncckpt.testing.store import content, expect, keys, unfinished, use

from .conftest import HASTY, SOON, Backend, Open

MIB = 1 << 20
WHOLE = hashlib.shake_128(b"whole").digest(23 * MIB + 5)
"""Five parts of five MiB."""


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that is given up is aborted, however long that takes here."""
    monkeypatch.setattr("asyncckpt.storage.bucket.store.HASTE", 60.0)


async def streamed(whole: bytes = WHOLE) -> AsyncIterator[bytes]:
    for at in range(0, len(whole), 3 * MIB):
        yield whole[at : at + 3 * MIB]


async def endless(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, and then nothing, for ever."""
    async for part in parts:
        yield part
    await asyncio.Event().wait()


def ends(store: Storage, act: Callable[[Storage], Awaitable[None]]) -> None:
    """Carry out `act`; it leaves no upload."""

    async def whole(store: Storage) -> None:
        await act(store)
        assert await unfinished(store) == []

    use(store, whole)


# -- got over --------------------------------------------------------------------------------------------------


def _failing(proxy: Proxy) -> None:
    proxy.add("answer", every=2, status=500, body=b"<Error><Code>InternalError</Code></Error>")


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (lambda proxy: proxy.add("answer", every=2), "slow_down"),
        (_failing, "server_error"),
        (lambda proxy: proxy.add("reset", "PUT .*partNumber", after=MIB, times=3), "reset"),
        (lambda proxy: proxy.add("reset", "POST .*uploads", times=2), "reset"),
        (lambda proxy: proxy.add("lose", "PUT .*partNumber", every=3), "reset"),
        (lambda proxy: proxy.add("lose", "POST .*uploadId", times=1), "reset"),
        (lambda proxy: proxy.add("truncate", "GET .*/big$", after=MIB, times=3), "damaged"),
        (lambda proxy: proxy.add("hang", "PUT .*partNumber=2", times=1), "timeout"),
        (lambda proxy: proxy.add("hang", "GET .*/big$", times=1), "timeout"),
    ],
)
def test_what_fails_now_and_then_is_tried_again(
    through: Open, proxy: Proxy, backend: Backend, happens: Callable[[Proxy], None], reason: str
) -> None:
    store = through(tuning=SOON if reason == "timeout" else {"attempts": 12})

    async def act(_: Storage) -> None:
        await store.head("a")
        happens(proxy)
        await store.put("big", streamed(), length=len(WHOLE))
        assert await store.get("big") == WHOLE
        proxy.heal()
        await expect(store, "big", WHOLE)
        assert store.retries.keys() >= {reason} or (backend == "obstore" and "part_retries" in store.fallbacks)

    use(store, act)


@pytest.mark.parametrize("backend", ["obstore"])
def test_fewer_bytes_than_were_asked_for_are_asked_for_again(
    through: Open, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore itself says so where a connection ends early, not where an object is shorter than it was."""
    came = ObstoreClient._body
    cut = 0

    async def shorter(client: ObstoreClient, got: Any, *, in_pieces: bool) -> AsyncIterator[Any]:
        nonlocal cut
        cut += 1
        async for piece in came(client, got, in_pieces=in_pieces):
            if cut % 2:
                yield piece[: len(piece) // 2]
                return
            yield piece

    async def act(store: Storage) -> None:
        await store.put("big", [WHOLE])
        monkeypatch.setattr(ObstoreClient, "_body", shorter)
        assert await store.get("big") == WHOLE

    store = through(tuning={"attempts": 12})
    use(store, act)
    assert store.retries["damaged"] > 0


def test_a_line_that_brings_a_part_of_every_answer_brings_all_in_the_end(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        await store.put("big", [WHOLE])
        proxy.add("truncate", "GET .*/big$", after=3 * MIB)
        inside: Any = store
        into = bytearray(8 * MIB)
        name = inside._names.whole("big")
        await inside._about("big", lambda: inside._client.fill(name, memoryview(into), MIB, None))
        assert into == WHOLE[MIB : 9 * MIB]

    use(through(tuning={"attempts": 12}), act)


@pytest.mark.parametrize(("fault", "times"), [("answer", 20), ("hang", 8)])
def test_fewer_requests_are_in_flight_while_the_store_says_slow_down_or_is_and_more_again_later(
    through: Open, proxy: Proxy, fault: str, times: int
) -> None:
    async def act(store: Storage) -> None:
        await store.head("a")
        inside: Any = store
        pressure = inside._client.requests._pressure
        assert pressure.limit == 8
        proxy.add(fault, "GET .*/n", times=times)
        await asyncio.gather(*(store.head(f"n{n}") for n in range(10)), store.get_each([f"n{n}" for n in range(10)]))
        low = pressure.limit
        proxy.heal()
        await store.get_each([f"n{n}" for n in range(60)])
        assert low < 8
        assert pressure.limit > low

    use(through(tuning={"concurrency": 8, **SOON}), act)


def test_the_next_part_does_not_wait_for_the_slowest(through: Open, proxy: Proxy) -> None:
    """A window, not batches: while the first part is stuck, all others go through its other place."""

    async def act(store: Storage) -> None:
        proxy.add("hang", r"PUT .*partNumber=1\b", times=1)
        put = asyncio.create_task(store.put("big", streamed()))
        await proxy.seen(r"PUT .*partNumber=5\b")
        assert not put.done()
        proxy.release()
        await put
        assert proxy.count(r"PUT .*partNumber=1\b") == 1
        assert await store.get("big") == WHOLE

    ends(through(tuning={"memory": 10 * MIB}), act)


@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_no_more_is_taken_than_the_window_holds(through: Open, proxy: Proxy, mode: PutMode) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += MIB
            yield bytes(MIB)

    async def act(store: Storage) -> None:
        await store.probe()
        proxy.add("hang", "PUT .*partNumber")
        put = asyncio.create_task(store.put("big", endless(), mode=mode))
        await proxy.seen("PUT .*partNumber", 3)
        await asyncio.sleep(0.5)  # that nothing more comes only waiting can show
        assert proxy.count("PUT .*partNumber") == 3
        assert taken <= (3 + 2) * 5 * MIB  # in the window, waiting for it, and being filled
        put.cancel()
        proxy.release()
        with pytest.raises(asyncio.CancelledError):
            await put

    ends(through(tuning={"memory": 15 * MIB}), act)


@pytest.mark.parametrize("backend", ["fsspec"])
def test_what_lasts_is_sent_by_as_many_requests_as_there_may_be(through: Open, proxy: Proxy, backend: Backend) -> None:
    """No memory is taken for it, so that none limits the window; obstore makes copies all the same."""
    sent = [WHOLE[at : at + 5 * MIB] for at in range(0, 20 * MIB, 5 * MIB)]

    async def parts() -> AsyncIterator[bytes]:
        for part in sent:
            yield part

    async def act(store: Storage) -> None:
        proxy.add("hang", "PUT .*partNumber", times=3)
        put = asyncio.create_task(store.put("big", Lasting(parts())))
        await proxy.seen("PUT .*partNumber", 3)
        proxy.release()
        await put
        assert await store.get("big") == b"".join(sent)

    ends(through(tuning={"memory": 5 * MIB, "concurrency": 3}), act)


def test_what_is_longer_than_so_many_parts_has_bigger_ones_though_only_its_bound_is_known(
    through: Open, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pack that is compressed or encrypted nobody knows the length before it is over."""
    monkeypatch.setattr("asyncckpt.storage.bucket.tuning.MOST_PARTS", 3)

    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(WHOLE), 3 * MIB):
            yield WHOLE[at : at + 3 * MIB]

    async def act(store: Storage) -> None:
        proxy.add("answer", "PUT .*partNumber=4", status=400, body=b"<Error><Code>InvalidArgument</Code></Error>")
        with pytest.raises(StorageError):
            await store.put("big", Lasting(parts()))
        await store.put("big", Lasting(parts(), at_most=len(WHOLE) + 100))
        assert await store.get("big") == WHOLE

    ends(through(), act)


# -- lost answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, len(WHOLE)])
def test_a_create_whose_answer_was_lost_is_known_to_be_ones_own(through: Open, proxy: Proxy, size: int) -> None:
    async def act(store: Storage) -> None:
        await store.probe()
        proxy.add("lose", "(PUT .*/a|POST .*uploadId.*)$", times=1)
        await store.put("a", [WHOLE[:size]], mode="create")
        with pytest.raises(ObjectExists):
            await store.put("a", [WHOLE[:size]], mode="create")
        await expect(store, "a", WHOLE[:size])

    ends(through(), act)


def test_an_upload_of_whose_completion_no_answer_comes_is_known_to_be_there(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        await store.head("a")
        proxy.add("lose", "POST .*uploadId")
        await store.put("big", streamed())
        await expect(store, "big", WHOLE)

    ends(through(), act)


def test_a_create_that_was_not_carried_out_and_whose_answer_was_lost_finds_the_other_one(
    through: Open, proxy: Proxy
) -> None:
    async def act(store: Storage) -> None:
        await store.probe()
        await store.put("a", [b"other"], mode="create")
        proxy.add("lose", "PUT .*/a$", times=1)
        with pytest.raises(ObjectExists):
            await store.put("a", [b"mine"], mode="create")
        assert await content(store, "a") == b"other"

    ends(through(), act)


@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_an_outcome_that_cannot_be_found_out_is_said_to_be_unknown(through: Open, proxy: Proxy, mode: PutMode) -> None:
    async def act(store: Storage) -> None:
        await store.probe()
        proxy.add("lose", "PUT .*/a$")
        proxy.add("answer", "HEAD")
        with pytest.raises(OutcomeUnknown, match="not known"):
            await store.put("a", [b"x"], mode=mode)
        proxy.heal()
        await expect(store, "a", b"x")

    use(through(), act)


def test_a_put_that_never_arrived_is_not_there(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        await store.head("a")
        proxy.add("reset", "PUT")
        with pytest.raises(OutcomeUnknown):
            await store.put("a", [b"x"])
        proxy.heal()
        await expect(store, "a", None)

    ends(through(), act)


# -- nothing half done -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["answer", "reset", "lose"])
@pytest.mark.parametrize("pattern", [r"PUT .*partNumber=3\b", "PUT .*partNumber", "POST .*uploadId"])
def test_an_upload_that_fails_for_good_leaves_nothing(through: Open, proxy: Proxy, fault: Fault, pattern: str) -> None:
    if (fault, pattern) == ("lose", "POST .*uploadId"):
        pytest.skip("that one is completed")

    async def act(store: Storage) -> None:
        await store.put("big", [b"old"])
        proxy.add(fault, pattern)
        with pytest.raises(StorageError) as caught:
            await store.put("big", streamed())
        assert isinstance(caught.value, TransientError | OutcomeUnknown)
        await expect(store, "big", b"old")

    ends(through(), act)


@pytest.mark.parametrize("at", ["POST .*uploads", r"PUT .*partNumber=1\b", r"PUT .*partNumber=5\b"])
def test_a_cancelled_upload_leaves_nothing(through: Open, proxy: Proxy, backend: Backend, at: str) -> None:
    is_last = backend == "obstore" and "5" in at  # which it sends only when it is to complete the object

    async def act(store: Storage) -> None:
        await store.head("a")
        proxy.add("linger", at, seconds=60)
        # Else it may be complete before it is cancelled.
        put = asyncio.create_task(store.put("big", streamed() if "5" in at else endless(streamed())))
        await proxy.seen(at)
        put.cancel()
        proxy.release()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert proxy.count(r"GET .*\?uploads") == 0  # nobody had to look for it
        await expect(store, "big", WHOLE if is_last else None)

    ends(through(), act)


def test_an_upload_that_is_given_up_waits_for_its_abort_for_a_moment_only(
    through: Open, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncckpt.storage.bucket.store.HASTE", 0.2)
    patient = {"read_timeout": 600, "deadline": 600, "patience": 600}

    async def act(store: Storage) -> None:
        await store.head("a")
        proxy.add("hang", "DELETE .*uploadId")
        put = asyncio.create_task(store.put("big", endless(streamed())))
        await proxy.seen(r"PUT .*partNumber=1\b")
        put.cancel()
        async with asyncio.timeout(60):
            with pytest.raises(asyncio.CancelledError):
                await put
        assert "left to the next start" in caplog.text
        proxy.heal()
        proxy.release()
        await expect(store, "big", None)

    use(through(tuning=patient), act)


def test_an_upload_of_obstore_has_fewer_parts_under_way_once_the_store_has_said_slow_down(
    through: Open, proxy: Proxy
) -> None:
    asked: list[int] = []

    def put(*_: object, **given: Any) -> None:
        asked.append(given["max_concurrency"])

    stores = SimpleNamespace(obstore=SimpleNamespace(put_async=put), sending=None)

    async def act(store: Any) -> None:
        await store.head("a")
        client = store._client
        client.upload("a", "token", "overwrite", 5 * MIB, 16)._put(stores, None)
        proxy.add("answer", times=1)
        await store.head("a")
        client.upload("a", "token", "overwrite", 5 * MIB, 16)._put(stores, None)

    use(through(backend="obstore"), act)
    assert asked == [16, 8]


def test_an_upload_cancelled_while_it_is_completed_is_there(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        proxy.add("delay", "POST .*uploadId", seconds=0.5)
        put = asyncio.create_task(store.put("big", streamed()))
        await proxy.seen("POST .*uploadId")
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        await expect(store, "big", WHOLE)

    ends(through(), act)


@pytest.mark.parametrize("times", [1, 100])
def test_a_server_that_removes_a_folder_just_as_an_object_comes_there_is_asked_again(
    through: Open, proxy: Proxy, times: int
) -> None:
    proxy.add("answer", "PUT", times=times, status=404, body=b"<Error><Code>NoSuchKey</Code></Error>")

    async def act(store: Storage) -> None:
        if times == 1:
            await store.put("a/b", [b"x"])
            assert await store.get("a/b") == b"x"
        else:
            with pytest.raises(TransientError, match="NoSuchKey"):
                await store.put("a/b", [b"x"])

    store = through()
    use(store, act)
    assert store.retries == {"folder": min(times, HASTY["attempts"] - 1)}


def test_an_upload_that_could_not_be_aborted_is_listed_under_its_own_root_alone(
    through: Open, proxy: Proxy, url: str
) -> None:
    async def act(store: Storage) -> None:
        proxy.add("answer", "DELETE|POST .*uploadId")
        with pytest.raises(OutcomeUnknown):
            await store.put("data/big", streamed())
        proxy.heal()
        (left,) = await unfinished(store)
        assert left.key == "data/big"
        assert await unfinished(store, "data/") == [left]
        assert await unfinished(store, "commits/") == []
        for other in (f"{url}-2", f"{url}/data/big", url[:-1], url.replace("/run", "/other")):
            elsewhere = through(other)
            assert await unfinished(elsewhere) == []
            await elsewhere.aclose()
        await store.abort(left)
        await store.abort(left)

    ends(through(), act)


# -- what a person has to mend ---------------------------------------------------------------------------------


def every_call(store: Storage) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "get": lambda: store.get("a"),
        "head": lambda: store.head("a"),
        "list": lambda: keys(store),
        "uploads": lambda: unfinished(store),
        "probe": store.probe,
        "put": lambda: store.put("a", [b"x"]),
        "create": lambda: store.put("a", [b"x"], mode="create"),
        "big put": lambda: store.put("a", streamed()),
        "delete": lambda: store.delete(["a"]),
    }


def refuses(store: Storage, kind: type[StorageError], said: str) -> None:
    """Every call raises `kind`, naming the root and what is `said`."""

    async def act(store: Storage) -> None:
        for name, call in every_call(store).items():
            with pytest.raises(kind, match=said) as caught:
                await call()
            assert store.url in str(caught.value), name
            assert STRANGERS_SECRET not in str(caught.value)

    use(store, act)


def test_a_bucket_that_is_not_there_is_an_error_and_is_not_made(through: Open, s3: S3Server) -> None:
    refuses(through("s3://not-there/run"), StorageDenied, "there is no bucket of that name; create it")
    client = s3.client()
    assert "not-there" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    client.close()


def test_who_may_not_is_told_so(through: Open) -> None:
    refuses(through(key=STRANGER, secret=STRANGERS_SECRET), StorageDenied, "access denied; let these credentials")


def test_wrong_credentials_are_told_from_missing_rights(through: Open) -> None:
    refuses(through(secret=f"not {STRANGERS_SECRET}"), StorageDenied, "does not accept this secret key")
    refuses(through(key="nobody"), StorageDenied, "does not know this access key")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("ExpiredToken", 400, "the credentials have expired; renew them"),
        ("RequestTimeTooSkewed", 403, "clock differs too much from the store's; set it"),
        ("QuotaExceeded", 403, "the quota is used up"),
    ],
)
def test_what_a_store_refuses_for_is_said_in_words(
    through: Open, proxy: Proxy, code: str, status: int, said: str
) -> None:
    answer = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    proxy.add("answer", status=status, body=answer)
    refuses(through(), StorageDenied, said)


def test_credentials_that_were_renewed_are_taken_up(through: Open, proxy: Proxy) -> None:
    async def act(store: Storage) -> None:
        await store.put("a", [b"x"])
        inside: Any = store
        connection = inside._client.requests.connection
        before = await inside._crossing.call(connection.client)
        expired = b"<Error><Code>ExpiredToken</Code></Error>"
        proxy.add("answer", times=2, status=400, body=expired)
        with pytest.raises(StorageDenied, match="expired"):
            await store.get("a")
        assert await content(store, "a") == b"x"
        assert await inside._crossing.call(connection.client) is not before
        proxy.add("answer", times=1, status=400, body=expired)
        assert await content(store, "a") == b"x"
        assert inside.retries["credentials"] == 2
        newest = await inside._crossing.call(connection.client)
        connection.renew(before)  # says a request that was under way since then
        assert await inside._crossing.call(connection.client) is newest

    use(through(), act)


def test_a_refusal_without_words_may_be_that_of_credentials_that_have_expired(through: Open, proxy: Proxy) -> None:
    async def act(store: Any) -> None:
        await store.put("a", [b"x"])
        proxy.add("answer", "HEAD ", times=1, status=400, body=b"")
        assert (await store.head("a")).length == 1
        assert store.retries == {"credentials": 1}
        proxy.add("answer", "HEAD ", status=400, body=b"")
        with pytest.raises(StorageError, match="400"):
            await store.head("a")

    use(through(), act)


def test_a_store_that_cannot_be_reached_is_not_an_empty_one(through: Open, proxy: Proxy) -> None:
    proxy.refuse()
    refuses(through(), TransientError, "check the network, and endpoint_url")


def test_a_store_that_does_not_answer_is_waited_for_only_so_long(through: Open, proxy: Proxy) -> None:
    proxy.add("hang")
    store = through(tuning={"attempts": 2, "read_timeout": 0.2, "deadline": 20})

    async def act(store: Storage) -> None:
        for call in (store.head("a"), keys(store), store.put("a", [b"x"])):
            with pytest.raises(TransientError, match="did not answer in time"):
                await call

    use(store, act)
