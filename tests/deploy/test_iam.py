"""The policies for S3: exactly the actions that asyncckpt needs, as a proxy sees its requests to a real server."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest
import torch

import asyncckpt
from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.errors import SaveFailed
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.s3server import S3Server

from ..checkpointer.trainings import Toy
from .conftest import DEPLOY

BUCKET = "tests"

ACTIONS = {
    r"GET /BUCKET/?\?(.*&)?uploads": "s3:ListBucketMultipartUploads",
    r"(GET|HEAD) /BUCKET/?(\?|$)": "s3:ListBucket",
    r"GET /BUCKET/.+\?(.*&)?uploadId=": "s3:ListMultipartUploadParts",
    r"DELETE /BUCKET/.+\?(.*&)?uploadId=": "s3:AbortMultipartUpload",
    r"(GET|HEAD) /BUCKET/.": "s3:GetObject",
    r"(DELETE /BUCKET/.|POST /BUCKET/?\?(.*&)?delete)": "s3:DeleteObject",
    r"(PUT /BUCKET/.|POST /BUCKET/.+\?(.*&)?upload)": "s3:PutObject",
}
"""What S3 asks for a request; the first that fits."""


def needed(requests: Iterable[str]) -> set[str]:
    """The actions that have to be allowed for these requests."""
    found = set[str]()
    for line in requests:
        fitting = [action for pattern, action in ACTIONS.items() if re.match(pattern.replace("BUCKET", BUCKET), line)]
        assert fitting, f"no action is known for {line}"
        found.add(fitting[0])
    return found


def allowed(name: str) -> set[str]:
    """The actions of a policy, which are of a bucket or of objects in it."""
    actions = set[str]()
    for statement in json.loads((DEPLOY / "iam" / name).read_text())["Statement"]:
        said = statement["Action"]
        these = {said} if isinstance(said, str) else set(said)
        of_bucket = {each for each in these if "Bucket" in each}
        assert of_bucket == (set() if "/" in statement["Resource"] else these)
        actions |= these
    return actions


@pytest.mark.parametrize("backend", ["fsspec", "obstore"])
def test_a_training_needs_what_the_policy_allows_and_no_more(s3: S3Server, backend: str) -> None:
    url = f"s3://{BUCKET}/iam-{backend}/run"
    model = Toy()
    model.big = torch.nn.Parameter(torch.zeros(3 << 20))
    with Proxy(s3.port) as proxy:
        options = s3.options(proxy.endpoint, backend=backend, asyncckpt={"part_size": 5 << 20, "attempts": 2})
        made: dict[str, Any] = {"model": model, "storage_options": options, "executor": "thread"}
        with AsyncCheckpointer(url, keep=RetentionPolicy(last=1), **made) as ckpt:
            assert ckpt.resume() is None
            for step in (1, 2, 3):
                model.big.data.fill_(step)
                ckpt.save(step).wait()
            ckpt.wait()
            proxy.add(
                "answer", "PUT .*partNumber=2", times=2, status=403, body=b"<Error><Code>AccessDenied</Code></Error>"
            )
            model.big.data.fill_(4)
            with pytest.raises(SaveFailed):
                ckpt.save(4).wait()
        # What a killed process leaves: the next start looks for it.
        with closing(s3.client()) as client:
            key = next(iter(client.list_objects_v2(Bucket=BUCKET, Prefix=f"iam-{backend}/run/data/")["Contents"]))[
                "Key"
            ]
            client.create_multipart_upload(Bucket=BUCKET, Key=key.replace("step-", "step-9"))
        with AsyncCheckpointer(url, keep=RetentionPolicy(last=1), **made) as ckpt:
            state = ckpt.resume()
            assert state is not None
            assert state.step == 3
            ckpt.save(5).wait()
            ckpt.wait()
        assert needed(proxy.requests) == allowed("policy.json")


@pytest.mark.parametrize("backend", ["fsspec", "obstore"])
def test_who_only_reads_needs_what_the_policy_of_readers_allows_and_no_more(s3: S3Server, backend: str) -> None:
    url = f"s3://{BUCKET}/iam-read-{backend}/run"
    with AsyncCheckpointer(url, model=Toy(), storage_options=s3.options()) as ckpt:
        ckpt.save(1).wait()
    with Proxy(s3.port) as proxy:
        options = s3.options(proxy.endpoint, backend=backend)
        assert asyncckpt.load(url, storage_options=options).info.step == 1
        with AsyncCheckpointer(url, model=Toy(), storage_options=options) as reader:
            assert [each.step for each in reader.checkpoints()] == [1]
            reader.restore("latest")
        environment = {
            "AWS_ACCESS_KEY_ID": options["key"],
            "AWS_SECRET_ACCESS_KEY": options["secret"],
            "AWS_ENDPOINT_URL_S3": proxy.endpoint,
        }
        subprocess.run(
            [sys.executable, "-m", "asyncckpt", "verify", url],
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
        assert needed(proxy.requests) == allowed("reader.json")


def test_the_lifecycle_rules_are_such_and_never_expire_what_is_there() -> None:
    rules = json.loads((DEPLOY / "iam" / "lifecycle.json").read_text())
    session = importlib.import_module("botocore.session").get_session()
    shape = session.get_service_model("s3").operation_model("PutBucketLifecycleConfiguration").input_shape
    said = {"Bucket": "my-bucket", "LifecycleConfiguration": rules}
    found = importlib.import_module("botocore.validate").ParamValidator().validate(said, shape)
    assert not found.has_errors(), found.generate_report()
    assert any(rule.get("AbortIncompleteMultipartUpload") for rule in rules["Rules"])
    for rule in rules["Rules"]:
        assert not {"Days", "Date"} & rule.get("Expiration", {}).keys()
        assert "Transitions" not in rule
