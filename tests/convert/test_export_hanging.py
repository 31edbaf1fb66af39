"""An export to a disk that hangs: it ends, says what is known and what to do, and leaves nothing once that is back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncckpt.convert import place
from asyncckpt.storage import bounded, stopped
from asyncckpt.testing.slow import PATIENCE

from .conftest import Box, Run, names, saved

WRITING = "hangs; mend that (umount -f, or its server), remove .out."
SHOWING = "hangs; whether it is there, or will be, is not known: mend that (umount -f, or its server), look, and ask"


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str], threading.Event]]:
    """Has calls of that name hang until what is returned is set."""
    go = threading.Event()
    monkeypatch.setattr(bounded, "PATIENCE", 3600.0)
    monkeypatch.setattr(bounded, "LOOK", 0.01)
    monkeypatch.setattr(stopped, "HELD", 0.0)

    def hanging(where: Any, name: str) -> threading.Event:
        real = getattr(where, name)

        def hangs(*given: Any, **named: Any) -> Any:
            monkeypatch.setattr(bounded, "PATIENCE", 0.0)
            assert go.wait(2 * PATIENCE)
            return real(*given, **named)

        monkeypatch.setattr(where, name, hangs)
        return go

    yield hanging
    go.set()


@pytest.mark.parametrize("kind", ["safetensors", "torch", "hf", "dcp"])
def test_what_was_being_written_is_gone_once_the_disk_is_back(
    run: Run, tmp_path: Path, hang: Callable[[Any, str], threading.Event], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "run", Box({"w": torch.ones(2)}))
    dropped, drop = threading.Event(), place.Place._drop

    def drops(there: place.Place) -> None:
        drop(there)
        dropped.set()

    monkeypatch.setattr(place.Place, "_drop", drops)
    go = hang(place.Written, "write")
    said = run("export", tmp_path / "run", tmp_path / "out", "--to", kind, code=4).stderr
    assert f"{tmp_path / 'out'}: writing it has not gone on for " in said
    assert WRITING in said
    assert ".partial beside it, if it is there, and ask again" in said
    go.set()
    assert dropped.wait(PATIENCE)
    assert names(tmp_path) == ["run"]


def test_of_one_that_was_being_given_its_name_nobody_knows(
    run: Run, tmp_path: Path, hang: Callable[[Any, str], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "run", Box({"w": torch.ones(2)}))
    removed, remove = threading.Event(), place._remove

    def removes(hidden: Path) -> None:
        remove(hidden)
        removed.set()

    monkeypatch.setattr(place, "_remove", removes)
    go = hang(place, "_publish")
    said = run("export", tmp_path / "run", tmp_path / "out", "--to", "safetensors", code=4).stderr
    assert f"{tmp_path / 'out'}: giving it its name has not gone on for " in said
    assert SHOWING in said
    go.set()
    assert removed.wait(PATIENCE)
    assert names(tmp_path) == ["out", "run"]


def test_what_is_not_even_looked_at_is_said(
    run: Run, tmp_path: Path, hang: Callable[[Any, str], threading.Event]
) -> None:
    saved(tmp_path / "run", Box({"w": torch.ones(2)}))
    hang(place, "_taken")
    said = run("export", tmp_path / "run", tmp_path / "out", "--to", "hf", code=4).stderr
    assert f"{tmp_path / 'out'}: a look at it has not gone on for " in said


_EXPORTS = """
import sys, threading
from click.testing import CliRunner
from asyncckpt.cli.app import app
from asyncckpt.convert import place
from asyncckpt.storage import bounded, stopped
bounded.HURRY = stopped.HELD = 0.0
bounded.LOOK = 0.01
def hangs(*given):
    bounded.PATIENCE = 0.0
    threading.Event().wait()
place.Written.write = hangs
for kind in ("safetensors", "torch", "hf", "dcp"):
    bounded.PATIENCE = 3600.0
    print(kind, CliRunner().invoke(app, ["export", sys.argv[1], sys.argv[2], "--to", kind]).exit_code)
"""


def test_the_process_ends(tmp_path: Path) -> None:
    saved(tmp_path / "run", Box({"w": torch.ones(2)}))
    done = subprocess.run(
        [sys.executable, "-c", _EXPORTS, tmp_path / "run", tmp_path / "out"],
        capture_output=True, text=True, check=True, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert done.stdout.split() == ["safetensors", "4", "torch", "4", "hf", "4", "dcp", "4"]
