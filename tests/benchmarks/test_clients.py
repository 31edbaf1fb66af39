"""What every client of the upload and download benchmarks uploads, it reads back."""

from __future__ import annotations

import pytest

from asyncckpt.testing.s3server import S3Server
from benchmarks.clients import PEERS, S3FS, STORE, make
from benchmarks.clients.place import place
from benchmarks.installed import is_installed
from benchmarks.systems import OWN, THREAD
from benchmarks.turns import LIMIT

NBYTES = 12 << 20


@pytest.mark.filterwarnings("default")  # clients leave things open
@pytest.mark.parametrize("name", [OWN, THREAD, STORE, S3FS, LIMIT, *PEERS])
def test_what_a_client_uploads_it_reads_back(name: str, s3: S3Server) -> None:
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    with place(s3.endpoint) as where:
        client = make(name, where, NBYTES)
        client.open()
        before = client.checksum()
        client.begin(1)()
        client.clear()
        assert client.checksum() != before
        client.get()
        assert client.checksum() == before
        client.change()
        client.begin(2)()
        client.close()
