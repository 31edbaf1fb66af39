from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from starlette.testclient import TestClient

from asyncckpt import AsyncCheckpointer, RetentionPolicy, Run, SavePolicy
from asyncckpt.cli.app import app
from asyncckpt.serve.application import application
from asyncckpt.serve.reader import Reader
from asyncckpt.serve.shelf import Shelf
from asyncckpt.trackers import JsonLinesTracker

EVIL = "<script>window.bad=1</script><img src=x onerror=window.bad=1>\"'&"
"""What is nowhere markup, wherever it stands."""
EVIL_NAME = "<img src=x onerror=window.bad=1>\"'&#"
"""The same as a folder may be called."""

HIDDEN = "s3cr3t"


class Settings:
    """State of a user's own."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.values = values


def train(
    root: Path | str, losses: dict[int, float], *, config: dict[str, Any] | None = None, finished: bool = True,
    options: dict[str, Any] | None = None, **objects: Any,
) -> None:  # fmt: skip
    """A run that saves at the steps of `losses`, keeps its last two and its best, and logs."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    with Run.open(root, config=config, mode="auto", storage_options=options, logs=False) as run:
        trackers = run.trackers(JsonLinesTracker(f"{run.url}/logs", storage_options=options))
        keep, save = RetentionPolicy(last=2), SavePolicy(message=EVIL.replace("{", "{{") + " {step}")
        with AsyncCheckpointer(run, model=model, keep=keep, save=save, monitor=("loss", "min"), **objects) as ckpt:
            ckpt.resume()
            for step, loss in losses.items():
                with torch.no_grad():
                    model[0].weight.fill_(step)  # the other layer stays as it is
                ckpt.save(step, epoch=step // 100, metrics={"loss": loss, EVIL: 1.0}).wait()
                trackers.log(step, {"loss": loss, EVIL: step / 7, "odd": math.nan if step == 200 else 1.0})
            ckpt.wait()
        if finished:
            run.save_results({"loss": min(losses.values())})


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs, ``plain`` and `EVIL_NAME`, which nobody may write to."""
    folder = tmp_path_factory.mktemp("serve") / "runs"
    losses = {100: 0.5, 200: 0.1, 300: 0.9, 400: 0.8}
    train(
        folder / "plain",
        losses,
        config={"lr": 1e-3, "hub": {"apiKey": HIDDEN}},
        extra={"mine": Settings(api_key=HIDDEN, n=1)},
    )
    train(folder / EVIL_NAME, {100: 0.7, 150: 0.6}, config={EVIL: EVIL, "lr": 1e-2}, finished=False)
    CliRunner().invoke(app, ["tag", f"{folder / EVIL_NAME}@100", "<script>bad</script>"], catch_exceptions=False)
    return folder


@contextmanager
def served(root: Path | str) -> Iterator[TestClient]:
    """Asks the application over `root`, without a socket between."""
    with Reader() as reader:
        shelf = Shelf(str(root), reader)
        with TestClient(application(shelf), base_url="http://localhost", follow_redirects=False) as client:
            yield client
        shelf.close()


@pytest.fixture(scope="module")
def client(runs: Path) -> Iterator[TestClient]:
    with served(runs) as made:
        yield made


def cli(*arguments: object) -> dict[str, Any]:
    """What a command prints with ``--json``."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed
