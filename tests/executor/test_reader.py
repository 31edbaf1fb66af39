"""The reader of a trainer whose saves are another process's: a store that hangs holds up no close."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import CheckpointerClosed
from asyncckpt.storage import LocalStorage, stopped
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.worker.process.reader import Reader
from tests.storage.test_storage_threads import Holding


def test_a_store_that_hangs_holds_up_no_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopped, "HELD", 0.0)
    files = Holding("open")
    reader = Reader(Catalog(LocalStorage(tmp_path, files=files)))
    told = reader.start(lambda catalog: catalog.run())
    assert files.held.wait(PATIENCE)
    reader.close()
    assert not told.done()
    files.go.set()
    with pytest.raises(CheckpointerClosed):
        told.result(PATIENCE)
    assert reader._thread is not None
    reader._thread.join(PATIENCE)
    assert not reader._thread.is_alive()
