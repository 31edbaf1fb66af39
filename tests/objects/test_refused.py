"""A store that refuses for a while: training goes on, later saves succeed, and nothing partial is left."""

from __future__ import annotations

import pytest

from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.s3server import S3Server

from ..checkpointer.trainings import Training, steps
from .conftest import HASTY
from .test_training import checkpointer


@pytest.mark.parametrize(
    ("refused", "library"),
    [("", "fsspec"), ("", "obstore"), ("PUT .*/commits/", "fsspec"), ("PUT .*manifest", "obstore")],
)
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ExpiredToken", 400),
        ("RequestTimeTooSkewed", 403),
        ("AccessDenied", 403),
        ("NoSuchBucket", 404),
        ("QuotaExceeded", 403),
    ],
)
def test_a_store_that_refuses_for_a_while_costs_the_saves_of_that_time_alone(
    s3: S3Server, proxy: Proxy, url: str, code: str, status: int, refused: str, library: str
) -> None:
    training = Training()
    with checkpointer(training, url, s3.options(proxy.endpoint, asyncckpt=HASTY, backend=library)) as ckpt:
        training.step()
        ckpt.save(1).wait()
        answer = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        proxy.add("answer", refused, status=status, body=answer)
        training.step()
        with pytest.raises(SaveFailed) as caught:
            ckpt.save(2).wait()
        assert isinstance(caught.value.failures[2], StorageDenied)
        proxy.heal()
        training.step()
        assert ckpt.save(3).wait().step == 3
        assert steps(ckpt) == [1, 3]
    objects, uploads = s3.stored(url)
    assert uploads == []
    assert {key.split("/")[1].split("-")[2] for key in objects if key.startswith("data/")} == {"1", "3"}
