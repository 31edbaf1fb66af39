"""Clients of an object store under measurement, each driven as its own documentation says, behind one small interface.

Some move one object of plain memory, some a checkpoint of as many bytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, TypeAlias, cast

from benchmarks.clients.place import Place
from benchmarks.systems import OWN, THREAD
from benchmarks.turns import LIMIT

Wait: TypeAlias = Callable[[], None]
"""Returns once the store has everything; in any thread."""

STORE, S3FS = f"{OWN}.store", f"{OWN}.s3fs"
"""This project's store alone, on s3fs, and all of this project through s3fs."""


class Client(Protocol):
    """One way of moving a given number of bytes between memory and one place."""

    def open(self) -> None:
        """Connect, and have ready what is made once."""
        ...

    def change(self) -> None:
        """Make the bytes other ones, so that they must be sent again; what earlier calls began has ended."""
        ...

    def begin(self, number: int) -> Wait:
        """What a training thread does to have them uploaded."""
        ...

    def get(self) -> None:
        """Read what was uploaded last back into the memory that it came from."""
        ...

    def clear(self) -> None:
        """Zero that memory."""
        ...

    def checksum(self) -> int:
        """Of that memory."""
        ...

    def close(self) -> None: ...


_CLASSES = {
    OWN: "own:Saved",
    THREAD: "own:SavedInThread",
    STORE: "own:Stored",
    S3FS: "own:SavedByS3fs",
    "obstore": "obstore_raw:Obstore",
    "obstore.unsigned": "obstore_raw:Unsigned",
    "s3torchconnector": "s3torchconnector_stream:S3TorchConnector",
    "boto3": "boto3_transfer:Boto3",
    "s3fs": "s3fs_files:S3fs",
    "dcp.fsspec": "dcp_fsspec:DcpFsspec",
    LIMIT: "bare:Bare",
}

PEERS = tuple(name for name in _CLASSES if not name.startswith(OWN) and name != LIMIT)

QUICK_PEERS = ("obstore", "s3fs")

IN_PYTHON = ("boto3", "s3fs", "dcp.fsspec")
"""Those that need the interpreter for what they send."""


def make(name: str, place: Place, nbytes: int) -> Client:
    """Client `name` of `nbytes` at `place`."""
    module, of = _CLASSES[name].split(":")
    made = getattr(importlib.import_module(f"benchmarks.clients.{module}"), of)(place, nbytes)
    return cast(Client, made)
