from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy, Run
from asyncckpt.plots import theme
from asyncckpt.testing.s3server import S3Server
from asyncckpt.trackers import JsonLinesTracker

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of few pixels are drawn in less time; and nothing is left in the user's caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
    png = theme.png
    monkeypatch.setattr(theme, "png", lambda made: png(made, dpi=30))


@dataclass
class Place:
    """Where runs are."""

    root: str
    options: dict[str, Any] | None = None


@pytest.fixture(params=["folder", "s3"])
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """What holds in a folder holds behind a URL."""
    if request.param == "folder":
        yield Place(str(tmp_path / "runs"))
    else:
        server: S3Server = request.getfixturevalue("s3")
        yield Place(f"s3://tests/report-{os.getpid()}-{next(_numbers)}", server.options())


def trained(
    root: str,
    losses: dict[int, float],
    *,
    options: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    finished: bool = True,
    mode: Any = "auto",
    samples: list[str] | None = None,
) -> str:
    """A run that saves at the steps of `losses`, keeps its last two and its best, and logs; returns its id."""
    model = torch.nn.Linear(2, 2)
    with Run.open(root, config=config, mode=mode, storage_options=options, logs=False) as run:
        trackers = run.trackers(JsonLinesTracker(f"{run.url}/logs", storage_options=options))
        with AsyncCheckpointer(run, model=model, keep=RetentionPolicy(last=2), monitor=("loss", "min")) as ckpt:
            ckpt.resume()
            for step, loss in losses.items():
                with torch.no_grad():
                    model.weight.fill_(step)  # else it would be an increment of nothing
                ckpt.save(step, epoch=step // 100, metrics={"loss": loss}).wait()
                trackers.log(step, {"loss": loss, "lr": 0.1})
            ckpt.wait()
        if finished:
            run.save_results({"loss": min(losses.values())}, generation_samples=samples)
    return run.id
