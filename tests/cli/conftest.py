from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.cli.app import app

if TYPE_CHECKING:
    from asyncckpt.testing.s3server import IgnoringServer, S3Server

Run = Callable[..., Result]
Document = Callable[..., dict[str, Any]]


class Tied(nn.Module):
    """A model with an alias: its head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embedding.weight


@dataclass(frozen=True)
class Saved:
    """A finished run with checkpoints 1, 2, 3 of steps 10, 20, 30; step 20 is the best, 30 the latest."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def record(self, seq: int) -> Path:
        """The record that committed checkpoint `seq`."""
        return next(p for p in (self.root / "commits").iterdir() if json.loads(p.read_bytes()).get("seq") == seq)

    def pack(self, seq: int) -> Path:
        """The one pack of checkpoint `seq`."""
        return next((self.root / "data").glob(f"{seq:08d}-*/*.safetensors"))

    def manifest(self, seq: int) -> Path:
        """The manifest of checkpoint `seq`."""
        return next((self.root / "data").glob(f"{seq:08d}-*/manifest.json"))


def flip(path: Path, at: int = -1) -> None:
    """Turn one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below `folder`, with what would betray a write: inode, size and time of the last change."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        stat = path.lstat()
        found[str(path)] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def train(root: Path | str) -> None:
    """Make what `Saved` describes."""
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    with AsyncCheckpointer(root, model=model, optimizer=optimizer, monitor=("val_loss", "min")) as ckpt:
        for step, loss in ((10, 0.75), (20, 0.25), (30, 0.5)):
            model.head(model.embedding(torch.arange(8))).square().mean().backward()
            optimizer.step()
            ckpt.save(step, epoch=step // 10, metrics={"val_loss": loss}).wait()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained") / "run"
    train(root)
    return root


@pytest.fixture
def saved(trained: Path, tmp_path: Path) -> Saved:
    """A copy that the test may damage."""
    return Saved(Path(shutil.copytree(trained, tmp_path / "run", symlinks=True)))


@pytest.fixture
def run() -> Run:
    """Runs the command line in this process; an exception that it does not handle itself fails the test."""
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def document(run: Run) -> Document:
    """The same with ``--json``: the one document that it prints, whatever its status."""

    def found(*arguments: object) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
        return parsed

    return found


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root on a real S3 server that nobody else has, which commands find by themselves."""
    return _found(s3, monkeypatch)


@pytest.fixture
def ignoring_bucket(ignoring: IgnoringServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same on a real server that ignores conditions."""
    return _found(ignoring, monkeypatch)


def _found(server: S3Server | IgnoringServer, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.variables().items():
        monkeypatch.setenv(name, value)
    return f"s3://tests/{secrets.token_hex(8)}/run"
