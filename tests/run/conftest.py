from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asyncckpt import Run
from asyncckpt.run.files import Files
from asyncckpt.testing.s3server import S3Server

_numbers = itertools.count()
Train = Callable[..., "subprocess.CompletedProcess[str]"]
SOURCE = Path(__file__).parents[2]


@dataclass
class Place:
    """A root that a run can have, and what is in it."""

    root: str
    options: dict[str, Any] | None = None
    _open: list[Run] = field(default_factory=list)

    def open(self, **given: Any) -> Run:
        given.setdefault("logs", False)
        run = Run.open(self.root, storage_options=self.options, **given)
        self._open.append(run)
        return run

    def names(self) -> list[str]:
        async def listed(storage: Any) -> list[str]:
            return [info.key async for info in storage.list()]

        return self._asked(lambda files: files.do(listed))

    def read(self, key: str) -> bytes | None:
        return self._asked(lambda files: files.get(key))

    def write(self, key: str, data: bytes) -> None:
        self._asked(lambda files: files.put(key, data))

    def _asked(self, ask: Callable[[Files], Any]) -> Any:
        files = Files(self.root, self.options)
        try:
            return ask(files)
        finally:
            files.close()

    def close(self) -> None:
        for run in self._open:
            run.close()


@pytest.fixture(params=["folder", "memory", "s3"])
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """What holds in a folder holds behind a URL."""
    match request.param:
        case "folder":
            place = Place(str(tmp_path / "runs" / "first"))
        case "memory":
            place = Place(f"memory://run-{next(_numbers)}")
        case _:
            server: S3Server = request.getfixturevalue("s3")
            place = Place(f"s3://tests/run-{os.getpid()}-{next(_numbers)}", server.options())
    yield place
    place.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Place]:
    """A run's folder."""
    place = Place(str(tmp_path / "run"))
    yield place
    place.close()


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Runs a program in an empty folder, as a user would; the programs find ``Run`` and ``torch`` imported."""

    def run(program: str, *arguments: str, check: bool = True, **given: Any) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "train.py"
        script.write_text(f"import logging, os, sys, warnings\nfrom asyncckpt import Run\n{program}")
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), **given.pop("env", {})}
        return subprocess.run(
            [sys.executable, "train.py", *arguments],
            cwd=tmp_path,
            env=environment,
            check=check,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            **given,
        )

    return run


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    path = tmp_path / "code"
    path.mkdir()
    (path / "train.py").write_text("print('training')\n")
    git(path, "init", "--quiet")
    git(path, "add", ".")
    git(path, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "--message", "first")
    return path


def git(folder: Path, *arguments: str) -> str:
    """What git prints there, whatever the user has configured."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
