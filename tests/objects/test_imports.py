"""What a start has to import: in the trainer's process no more than it reads with, and nothing that knows no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.storage.obstore import ObstoreStorage, connection
from asyncckpt.storage.obstore.connection import asks_botocore
from asyncckpt.storage.obstore.options import translated
from asyncckpt.testing.s3server import S3Server

from ..checkpointer.trainings import Training
from .test_training import checkpointer

TOLD = {"key": "a", "secret": "b", "endpoint_url": "http://127.0.0.1:1"}

RESUME = """
import json, sys
from tests.checkpointer.trainings import Training
from tests.objects.test_training import checkpointer
training = Training()
with checkpointer(training, sys.argv[1], json.loads(sys.argv[2]), executor="process") as ckpt:
    assert ckpt.resume().step == 1
    training.step()
    ckpt.save(2).wait()
    assert [info.step for info in ckpt.checkpoints()] == [1, 2]
print(*({"s3fs", "aiobotocore", "botocore", "aiohttp", "fsspec", "obstore"} & sys.modules.keys()))
"""


@pytest.fixture
def unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody is known here; where a file of profiles would be."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".aws"


@pytest.mark.skipif(sys.platform != "linux", reason="no worker process")
def test_a_trainer_beside_a_worker_process_imports_obstore_alone(s3: S3Server, url: str, unknown: Path) -> None:
    training = Training()
    with checkpointer(training, url, s3.options()) as ckpt:
        ckpt.save(1).wait()
    done = subprocess.run(
        [sys.executable, "-c", RESUME, url, json.dumps(s3.options())],
        env=os.environ | {"ASYNCCKPT_RUNTIME_DIR": str(unknown.parent / "runtime")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "obstore\n"


@pytest.mark.parametrize(
    ("options", "environment", "file"),
    [
        ({**TOLD, "profile": "me"}, {}, None),
        (TOLD, {"AWS_PROFILE": "me"}, None),
        (TOLD, {"AWS_DEFAULT_PROFILE": "me"}, None),
        (TOLD, {}, "config"),
        (TOLD, {}, "credentials"),
        (TOLD, {"AWS_CONFIG_FILE": __file__}, None),
        ({"endpoint_url": TOLD["endpoint_url"]}, {}, None),
        ({"key": "a", "secret": "b"}, {}, None),
    ],
)
def test_botocore_is_asked_where_it_may_know_more(
    options: dict[str, Any],
    environment: dict[str, str],
    file: str | None,
    unknown: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not asks_botocore(translated("s3", TOLD, "s3://bucket"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if file is not None:
        unknown.mkdir()
        (unknown / file).touch()
    assert asks_botocore(translated("s3", options, "s3://bucket"))
    assert "botocore.session" in ObstoreStorage("s3://bucket/run", options).imports(writes=False)


@pytest.mark.parametrize("environment", [{}, {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_CA_BUNDLE": __file__}])
@pytest.mark.parametrize("given", [{}, {"client_kwargs": {"region_name": "here", "verify": False}}])
def test_where_it_is_not_asked_it_would_have_said_the_same(
    environment: dict[str, str], given: dict[str, Any], unknown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> tuple[object, ...]:
        said, client = translated("s3", {**TOLD, **given}, "s3://bucket"), dict[str, Any]()
        return connection._told_by_aws("s3://bucket", said, said.config, client), said.config, client

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    alone = told()
    monkeypatch.setattr(connection, "asks_botocore", lambda said: True)
    assert alone == told()
