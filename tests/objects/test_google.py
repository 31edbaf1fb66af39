"""A training on Google Cloud Storage, as fake-gcs-server has it: by gcsfs, and by obstore, translated for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gcsfs.retry
import pytest

from asyncckpt import load
from asyncckpt.errors import SaveFailed, StorageDenied, StorageError
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.fsspec import FsspecStorage
from asyncckpt.storage.obstore import Untranslatable
from asyncckpt.testing.googleserver import GoogleServer
from asyncckpt.testing.googlexml import NOBODY, GoogleXml
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.store import use

from ..checkpointer.trainings import steps
from .conftest import Backend
from .taking_over import big, taken_over, trained
from .test_training import checkpointer

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


@pytest.fixture
def url(url: str) -> str:
    return url.replace("s3://", "gs://")


@pytest.fixture
def options(backend: Backend, google: GoogleServer, google_xml: GoogleXml) -> dict[str, Any]:
    return (google if backend == "fsspec" else google_xml).options(backend=backend)


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_training_goes_on_from_what_is_there_and_who_had_it_before_is_fenced(
    options: dict[str, Any], url: str, executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_over(url, options, executor, monkeypatch)


def test_a_bucket_that_is_not_there_is_an_error_and_is_not_made(options: dict[str, Any]) -> None:
    with checkpointer(big(), "gs://not-there/run", options, optimizer=None) as ckpt:
        with pytest.raises(StorageDenied, match="there is no"):
            ckpt.resume()
        with pytest.raises(SaveFailed, match="there is no"):
            ckpt.save(1).wait()


def test_what_the_emulator_says_to_obstore_itself_names_the_way_out(google: GoogleServer, url: str) -> None:
    async def act(store: Storage) -> None:
        with pytest.raises(StorageError, match=r"backend='fsspec' .*invalid uploadType"):
            await store.put("a", [b"x"])

    use(from_url(url, google.options(backend="obstore", token=NOBODY)), act)


def test_an_emulator_that_the_environment_names_is_spoken_to_by_the_library_that_knows_it(
    google: GoogleServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads that variable speaks the JSON interface; obstore would go to Google itself."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.endpoint)
    store = from_url(url)
    assert isinstance(store, FsspecStorage)
    assert "STORAGE_EMULATOR_HOST" in store.fallbacks["obstore"]
    with pytest.raises(Untranslatable, match="unset it, or give storage_options backend='fsspec'"):
        from_url(url, {"backend": "obstore"})


def test_a_record_whose_answers_all_get_lost_counts(
    google: GoogleServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It pauses for no time between its attempts.
    monkeypatch.setattr(gcsfs.retry, "random", SimpleNamespace(random=lambda: -60.0))
    training = big()
    with Proxy(google.port) as proxy:
        options = google.options(proxy.endpoint, backend="fsspec")
        with checkpointer(training, url, options, optimizer=None, executor="thread") as ckpt:
            trained(ckpt, training, 1)
            ckpt.wait(60)
            proxy.add("lose", "POST .*ifGenerationMatch=0", times=6)  # so often it asks
            trained(ckpt, training, 2, 3)
            assert steps(ckpt) == [1, 2, 3]
        assert load(url, storage_options=options).info.step == 3
