"""What comes of an error of a library below fsspec: a put whose answer was lost is not taken for one that failed."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import azure.core.exceptions
import fsspec
import google.auth.exceptions
import pytest
import requests
from fsspec.implementations.memory import MemoryFileSystem
from gcsfs.retry import HttpError

from asyncckpt.errors import ObjectExists, ObjectNotFound, OutcomeUnknown, StorageDenied, StorageError, TransientError
from asyncckpt.storage.base import Storage
from asyncckpt.storage.fsspec import FsspecStorage
from asyncckpt.testing.store import content, use
from asyncckpt.worker.commitlog.commit import ATTEMPTS
from tests.worker.drive import Session, checked, steps


class Losing:
    """What becomes of the answers of one file system: `put` and `read` are raised instead of them, while there are any.

    With `applied` a put is carried out all the same.
    """

    def __init__(self) -> None:
        self.put: list[Exception] = []
        self.read: list[Exception] = []
        self.applied = True

    def of(self, method: Callable[..., Any], errors: list[Exception], *, changes: bool) -> Callable[..., Any]:
        def answered(*arguments: Any, **named: Any) -> Any:
            if not errors:
                return method(*arguments, **named)
            if changes and self.applied:
                method(*arguments, **named)
            raise errors.pop(0)

        return answered


@pytest.fixture
def losing() -> Losing:
    return Losing()


@pytest.fixture
def store(losing: Losing) -> FsspecStorage:
    """An object store in memory, by fsspec."""
    scheme = f"losing{secrets.token_hex(4)}"

    def stripped(path: str) -> Any:
        return MemoryFileSystem._strip_protocol(path.removeprefix(f"{scheme}://"))

    own = {"async_impl": True, "store": {}, "pseudo_dirs": [""], "_strip_protocol": staticmethod(stripped)}
    kind = type("InMemory", (MemoryFileSystem,), own)
    fsspec.register_implementation(scheme, kind)
    store = FsspecStorage(f"{scheme}://bucket/run")
    files = store._files
    files.pipe_file = losing.of(files.pipe_file, losing.put, changes=True)
    files.cat_file = losing.of(files.cat_file, losing.read, changes=False)
    return store


def _response(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    return response


class _Azure(azure.core.exceptions.HttpResponseError):
    def __init__(self, status: int, code: str) -> None:
        super().__init__("said Azure")
        self.status_code, self.error_code = status, code


def _because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


LOST = [
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError("cut short"),
    aiohttp.ClientOSError(errno.ECONNRESET, "reset"),
    requests.ConnectionError("reset"),
    requests.exceptions.ProxyError(),
    requests.ReadTimeout("slow"),
    requests.HTTPError("bad", response=_response(500)),
    HttpError({"code": 503, "message": "unavailable"}),
    google.auth.exceptions.TransportError("reset"),
    azure.core.exceptions.ServiceResponseError("no answer"),
    azure.core.exceptions.ServiceRequestError("no answer"),
    _Azure(500, "InternalError"),
    _because(RuntimeError("Failed to upload block"), azure.core.exceptions.ServiceResponseError("no answer")),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    TimeoutError(),
]
ODD = [
    OSError("something odd"),
    OSError(errno.EIO, "odd"),
    ValueError("Bad Request"),
    RuntimeError("odd"),
    KeyError("odd"),
]
REFUSED: list[tuple[Exception, type[StorageError]]] = [
    (FileExistsError("it"), ObjectExists),
    (HttpError({"code": 412, "message": "condition not met"}), ObjectExists),
    (_Azure(409, "BlobAlreadyExists"), ObjectExists),
    (FileNotFoundError("it"), ObjectNotFound),
    (HttpError({"code": 404, "message": "none"}), ObjectNotFound),
    (PermissionError("it"), StorageDenied),
    (OSError("Forbidden: https://store/b/o"), StorageDenied),
    (_Azure(403, "AuthorizationFailure"), StorageDenied),
    (HttpError({"code": 401, "message": "who?"}), StorageDenied),
    (HttpError({"code": 429, "message": "slower"}), TransientError),
    (HttpError({"code": 400, "message": "no name"}), StorageError),
]


def _named(case: Any) -> str:
    return f"{type(case).__name__}-{case}"[:40] if isinstance(case, Exception) else ""


@pytest.mark.parametrize("error", [*LOST, *ODD], ids=_named)
def test_whether_a_create_without_an_answer_was_carried_out_is_not_known(
    store: FsspecStorage, losing: Losing, error: Exception
) -> None:
    async def act(storage: Storage) -> None:
        await storage.probe()
        losing.put.append(error)
        with pytest.raises(OutcomeUnknown, match="whether it was stored is not known") as caught:
            await storage.put("a", [b"x"], mode="create")
        assert caught.value.__cause__ is error
        assert await content(storage, "a") == b"x"

    use(store, act)


@pytest.mark.parametrize("error", LOST, ids=_named)
def test_a_read_without_an_answer_is_worth_another_try(store: FsspecStorage, losing: Losing, error: Exception) -> None:
    async def act(storage: Storage) -> None:
        await storage.put("a", [b"x"], mode="create")
        losing.read.append(error)
        with pytest.raises(TransientError):
            await storage.get("a")

    use(store, act)


@pytest.mark.parametrize(("error", "kind"), REFUSED, ids=_named)
def test_what_was_refused_is_certain(
    store: FsspecStorage, losing: Losing, error: Exception, kind: type[StorageError]
) -> None:
    async def act(storage: Storage) -> None:
        await storage.probe()
        losing.applied = False
        losing.put.append(error)
        with pytest.raises(kind) as caught:
            await storage.put("a", [b"x"], mode="create")
        assert type(caught.value) is kind

    use(store, act)


@pytest.mark.parametrize("fails", [False, True], ids=["", "and-what-was-sent-stays"])
def test_a_draft_that_may_have_been_moved_is_not_known_to_be_there(
    tmp_path: Path, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecStorage(f"local://{tmp_path}")
    reset = OSError(errno.EIO, "reset")
    move = store._files.mv

    def lost(*paths: str) -> None:
        move(*paths)
        raise reset

    def denied(path: str) -> None:
        raise PermissionError(path)

    async def act(storage: Storage) -> None:
        with pytest.raises(OutcomeUnknown) as caught:
            await storage.put("a", [b"x"])
        assert any("could not be removed" in note for note in getattr(caught.value, "__notes__", [])) == fails
        assert await content(storage, "a") == b"x"

    monkeypatch.setattr(store._files, "mv", lost)
    if fails:
        monkeypatch.setattr(store._files, "rm_file", denied)
    use(store, act)


async def _whole(url: str, *expected: int) -> None:
    """Just these steps are listed there, and all that they name is."""
    again = FsspecStorage(url)
    assert await steps(again) == [*expected]
    await checked(again)
    await again.aclose()


@pytest.mark.parametrize("error", [aiohttp.ServerDisconnectedError(), OSError("something odd")], ids=_named)
def test_a_record_whose_answer_was_lost_is_found_to_stand_and_keeps_its_data(
    store: FsspecStorage, losing: Losing, error: Exception
) -> None:
    async def act(storage: Storage) -> None:
        async with Session(storage) as session:
            await session.saved(1)
            losing.put.append(error)
            await session.saved(2)
            await session.saved(3)
        await _whole(storage.url, 1, 2, 3)

    use(store, act)


def test_a_record_of_which_nobody_can_find_out_keeps_its_data(store: FsspecStorage, losing: Losing) -> None:
    lost = aiohttp.ServerDisconnectedError()

    async def act(storage: Storage) -> None:
        async with Session(storage) as session:
            await session.saved(1)
            await session.tidied()
            losing.put.extend([lost] * ATTEMPTS)
            losing.read.extend([lost] * ATTEMPTS)
            assert isinstance(await session.refused(2), OutcomeUnknown)
            losing.read.clear()
            await session.saved(3)
        await _whole(storage.url, 1, 2, 3)

    use(store, act)
