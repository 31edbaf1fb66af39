"""A12: every optional service is broken at once, and the training is as it would have been."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncckpt.metrics_log import read_metrics
from asyncckpt.trackers import JsonLinesTracker, Trackers

TRAINING = """
import sys
for name in ("wandb", "tensorboard", "matplotlib"):
    sys.modules[name] = None
import socket
import torch
from asyncckpt import AsyncCheckpointer, MetricsConfig, SavePolicy
from asyncckpt.plots import Plotter
from asyncckpt.trackers import ConsoleTracker, JsonLinesTracker, TensorBoardTracker, Trackers, WandbTracker

class Closed:
    def write(self, text): raise BrokenPipeError(32, "Broken pipe")

folder = sys.argv[1]
torch.manual_seed(0)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trackers = Trackers(
    WandbTracker("run"), TensorBoardTracker(folder + "/board"), JsonLinesTracker(folder + "/file"),
    ConsoleTracker(Closed()),
)
plots = Plotter(folder + "/file/plots", every=2)
save = SavePolicy(every_steps=2)
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    metrics = MetricsConfig(port=taken.getsockname()[1], textfile=folder + "/file/textfile")
    ckpt = AsyncCheckpointer(folder + "/run", model=model, optimizer=optimizer, save=save,
                             listeners=[trackers], metrics=metrics)
with ckpt:
    for step in range(1, 7):
        loss = model(torch.ones(1, 4)).square().sum()
        loss.backward(), optimizer.step(), optimizer.zero_grad()
        ckpt.step(step)
        trackers.log(step, {"loss": loss}, confirm="Metrics")
        if plots.is_due(step):
            plots.model(step, model)
            plots.optimizer(step, optimizer)
    ckpt.wait()
    assert ckpt.latest().step == 6
assert trackers.close(60) and plots.close(60)
assert (plots.drawn, plots.failed) == (0, 1)  # what cannot be had is not asked for again
print(loss.item())
"""


def test_A12_all_services_broken_at_once_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRAINING, tmp_path],
        check=False,
        timeout=240,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) >= 0
    said = sorted(done.stderr.splitlines())
    starts = (
        "console did not take a row: [Errno 32] Broken pipe; training goes on",
        "metrics are not reported: ",
        "metrics are not served: 127.0.0.1:",
        "pictures are not drawn: plots need matplotlib",
        "tensorboard is not used: TensorBoard needs tensorboard",
        "wandb is not used: W&B needs wandb",
    )
    assert [line for line in said if line.startswith(starts)] == [
        line for start in starts for line in said if line.startswith(start)
    ]
    rows = [line for line in said if "/file/" in line and not line.startswith(starts)]
    assert [line.partition(" ")[0].rpartition("/")[2] for line in rows if "cannot be written" in line] == [
        "checkpoints.jsonl", "metrics.jsonl",
    ]  # fmt: skip
    assert all("cannot be written" in line or "could not be written" in line for line in rows)
    asked = [line for line in said if line.endswith("(jsonlines)")]  # what it was asked to confirm: it has them still
    assert len(asked) == 6
    assert len(said) == len(starts) + len(rows) + len(asked)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_ranks_the_first_tells_the_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setitem(os.environ, "RANK", rank)
    with Trackers(JsonLinesTracker(tmp_path)) as trackers:
        trackers.log(1, {"loss": 1.0}, confirm="Metrics")
    assert len(read_metrics(tmp_path).rows) == (rank == "0")
    assert set(trackers.status) == ({"jsonlines"} if rank == "0" else set())
