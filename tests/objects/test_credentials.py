"""Credentials that are replaced while a training runs: it takes up the new ones, and loses no checkpoint by it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.testing.s3server import KEY, SECRET, S3Server

from ..checkpointer.trainings import Training, steps
from .conftest import HASTY, Backend
from .test_training import checkpointer

NEW, NEW_SECRET = "renewed", "renewed-secret"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One for these tests alone."""
    with S3Server(tmp_path_factory.mktemp("own")) as server:
        server.make_bucket("tests")
        yield server


@pytest.fixture
def server(own: S3Server) -> Iterator[S3Server]:
    """One whose keys a test may replace."""
    yield own
    own.rotate(KEY, SECRET)


@pytest.fixture(params=["file", "process"])
def give(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says which credentials there are from now on, as a file of profiles, or as what a program says until they expire.

    What the program says expires within the minutes in which they are renewed ahead of time, and so is asked anew.
    """
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    profiles, said = tmp_path / "credentials", tmp_path / "said.json"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    read = tmp_path / "read.py"
    read.write_text(f"print(open({str(said)!r}).read())")

    def given(key: str, secret: str) -> None:
        if request.param == "file":
            _replace(profiles, f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
            return
        expires = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        known = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": secret, "Expiration": expires}
        _replace(said, json.dumps(known))
        _replace(tmp_path / "config", f"[default]\ncredential_process = {sys.executable} {read}\n")

    return given


def _replace(path: Path, text: str) -> None:
    # Whole at each moment: a client that reads half of it finds no credentials, and so fails a save for good.
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("give", "backend", "executor"),
    [
        *((way, backend, "thread") for way in ("file", "process") for backend in ("fsspec", "obstore")),
        *(("file", "fsspec", "process"), ("process", "obstore", "process")),  # it asks itself, as this process does
    ],
    indirect=["give", "backend"],
)
def test_a_training_goes_on_with_credentials_that_were_renewed(
    server: S3Server, url: str, give: Any, backend: Backend, executor: Any
) -> None:
    give(KEY, SECRET)
    training = Training()
    options = {"endpoint_url": server.endpoint, "backend": backend, "asyncckpt": HASTY}
    with checkpointer(training, url, options, executor=executor) as ckpt:
        training.step()
        ckpt.save(1).wait(60)
        server.rotate(NEW, NEW_SECRET)
        training.step()
        with pytest.raises(SaveFailed) as caught:  # nobody has given it the new ones
            ckpt.save(2).wait(60)
        assert isinstance(caught.value.failures[2], StorageDenied)
        give(NEW, NEW_SECRET)
        for step in (3, 4):
            training.step()
            ckpt.save(step).wait(60)
        server.rotate(KEY, SECRET)
        give(KEY, SECRET)
        training.step()
        ckpt.save(5).wait(60)  # which costs a request, and no save
        assert steps(ckpt) == [1, 3, 4, 5]
    with checkpointer(Training(), url, options) as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert state.step == 5
