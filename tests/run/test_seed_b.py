"""What seed B promises beside the run's folder (features B19 to B22), shown through what users call."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from asyncckpt import AsyncCheckpointer, RetentionPolicy, Run, SavePolicy, load
from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointNotFoundError, TransientError
from asyncckpt.events import Event, TierDurable, TierFailed
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from .conftest import SOURCE


def test_b19_all_runs_are_one_json_document_that_is_read_without_torch_and_changes_nothing(tmp_path: Path) -> None:
    """What a page shows; the page itself is the dashboard's."""
    evil = "<script>alert(1)</script>"
    for name in ("one", "two"):
        with (
            Run.open(tmp_path / name, name=evil, config={"name": evil}, logs=False) as run,
            AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt,
        ):
            ckpt.save(1, metrics={"loss": 0.5}).wait()
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = json.loads(CliRunner().invoke(app, ["compare", str(tmp_path), "--json"]).stdout)
    assert [Path(each["root"]).name for each in found["runs"]] == ["one", "two"]
    assert all("<" not in each["run"] for each in found["runs"])
    assert found["runs"][0]["metrics"]["loss"]["final"] == 0.5
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_b19_what_a_browser_is_shown_takes_no_torch_and_nothing_in_a_run_can_act_in_it(tmp_path: Path) -> None:
    """In a process of its own, which cannot import torch: names, metrics, tags and values are somebody's text."""
    evil = "</td><script>alert(1)</script>&quot;'\""
    root = tmp_path / "runs" / "one"
    with Run.open(root, name=evil, config={evil: evil, "list": [evil]}, logs=False) as run:
        with AsyncCheckpointer(run, model=nn.Linear(2, 2), save=SavePolicy(message="<b>{step}</b>")) as ckpt:
            ckpt.save(1, metrics={evil: 0.5}).wait()
        run.save_results({evil: 0.5}, generation_samples=[evil])
    assert CliRunner().invoke(app, ["tag", f"{root}@1", "<i>tag"]).exit_code == 0
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}

    def browse(*arguments: object) -> str:
        script = "import sys; sys.modules['torch'] = None\nfrom asyncckpt.cli import main\nmain()"
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            check=False, capture_output=True, text=True, encoding="utf-8", timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    (found,) = json.loads(browse("compare", tmp_path / "runs", "--json"))["runs"]
    assert found["metrics"][evil]["final"] == 0.5
    (listed,) = json.loads(browse("ls", root, "--json"))["checkpoints"]
    assert (listed["tags"], listed["metrics"]) == (["<i>tag"], {evil: 0.5})
    assert json.loads(browse("report", root, "--json"))["config"] == {evil: evil, "list": [evil]}
    browse("report", root, "--output", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in page
    assert not re.search(r"<(i>tag|b>1)", page)
    assert html.escape(evil, quote=False)[:30] in page.replace("&#x27;", "'")
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before


class Told:
    """What became of the backup."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, TierDurable | TierFailed) and event.tier == "mirror":
            self.events.append(event)


def test_b20_a_backup_that_is_down_costs_no_save_and_is_made_good(tmp_path: Path) -> None:
    backup, told = MemoryStorage("b20"), Told()
    down = GatedStorage(backup)
    down.fail("put", "*", lambda: TransientError("down"))
    model = nn.Linear(2, 2)
    with AsyncCheckpointer(
        tmp_path, model=model, mirror=down, listeners=[told], keep=RetentionPolicy(last=2), executor="thread"
    ) as ckpt:
        for step in (1, 2):
            assert ckpt.save(step).wait().step == step
    assert not any(isinstance(event, TierDurable) for event in told.events)
    assert [info.step for info in _listed(tmp_path)] == [1, 2]
    with pytest.raises(CheckpointNotFoundError):
        load(backup)
    with AsyncCheckpointer(
        tmp_path, model=model, mirror=backup, listeners=[told], keep=RetentionPolicy(last=2), executor="thread"
    ) as ckpt:
        ckpt.resume()
        for step in (3, 4, 5):
            ckpt.save(step).wait()
            ckpt.wait()
    assert [info.step for info in _listed(tmp_path)] == [4, 5]
    assert load(backup).info.step == 5
    assert load(backup).info.digest == load(tmp_path).info.digest


def _listed(root: Any) -> list[Any]:
    with AsyncCheckpointer(root, model=nn.Linear(2, 2)) as ckpt:
        return ckpt.checkpoints()


def test_b21_no_type_error_is_ignored() -> None:
    found = [
        path
        for folder in ("asyncckpt", "benchmarks", "deploy", "docs", "examples", "tests")
        for path in (SOURCE / folder).rglob("*.py")
        if re.search(r"#\s*(type:\s*ignore|mypy:)", path.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert not re.search(r"ignore_errors|follow_imports|disable_error_code", (SOURCE / "pyproject.toml").read_text())


def test_b22_a_limit_of_checkpoints_never_costs_the_best(tmp_path: Path) -> None:
    """``save_total_limit`` is ``last=``, and the best is beside it (R16)."""
    with AsyncCheckpointer(
        tmp_path, model=nn.Linear(2, 2), keep=RetentionPolicy(last=2), monitor=("loss", "min"),
        save=SavePolicy(every_steps=2),
    ) as ckpt:  # fmt: skip
        for step in range(1, 11):
            if (handle := ckpt.step(step, metrics={"loss": step})) is not None:
                handle.wait()
        ckpt.wait()
        assert [info.step for info in ckpt.checkpoints()] == [2, 8, 10]
        best = ckpt.best()
        assert best is not None
        assert best.step == 2


def test_b22_an_interval_in_epochs_counts_completed_epochs(tmp_path: Path) -> None:
    """``interval`` with ``interval_in_epochs``."""
    with AsyncCheckpointer(tmp_path, model=nn.Linear(2, 2), save=SavePolicy(every_epochs=2)) as ckpt:
        for epoch in range(1, 5):
            ckpt.step(epoch * 10)
            ckpt.epoch_end(epoch)
        ckpt.wait()
        assert [(info.step, info.epoch) for info in ckpt.checkpoints()] == [(20, 2), (40, 4)]


def test_b22_only_the_best_is_saved_and_a_resume_remembers_how_good_it_was(tmp_path: Path) -> None:
    """``save_best_only`` with ``monitor_metric``; the original began anew from infinity (R23)."""

    def start(*losses: float) -> list[int]:
        with AsyncCheckpointer(
            tmp_path, model=nn.Linear(2, 2), monitor=("loss", "min"), save=SavePolicy(on_best=True)
        ) as ckpt:
            state = ckpt.resume()
            for step, loss in enumerate(losses, start=state.step + 1 if state else 1):
                if (handle := ckpt.step(step, metrics={"loss": loss})) is not None:
                    handle.wait()
            ckpt.wait()
            return [info.step for info in ckpt.checkpoints()]

    assert start(0.5, 0.7, 0.4) == [1, 3]
    assert start(0.45, float("nan"), 0.4, 0.3) == [1, 3, 7]


def test_b22_parts_are_left_out_of_a_save_and_of_a_restore(tmp_path: Path) -> None:
    """``snapshot_optimizer``, ``snapshot_scheduler``; ``resume_restore_optimizer``, ``resume_restore_scheduler``."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    given: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts = ("optimizer", "scheduler")
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    with AsyncCheckpointer(tmp_path / "whole", **given) as ckpt:
        ckpt.save(1).wait()
    with AsyncCheckpointer(tmp_path / "less", **given, save=SavePolicy(exclude=parts)) as ckpt:
        ckpt.save(1).wait()
    assert {*parts} <= load(tmp_path / "whole").state.keys()
    assert not {*parts} & load(tmp_path / "less").state.keys()
    for takes_the_run in (False, True):
        other = nn.Linear(2, 2)
        changed = torch.optim.SGD(other.parameters(), lr=0.1)
        later = torch.optim.lr_scheduler.StepLR(changed, 20)
        with AsyncCheckpointer(tmp_path / "whole", model=other, optimizer=changed, scheduler=later) as ckpt:
            state = ckpt.resume(exclude=parts) if takes_the_run else ckpt.restore("latest", exclude=parts)
            assert state is not None
            assert state.step == 1
            assert torch.equal(other.weight, model.weight)
            assert (changed.param_groups[0]["lr"], dict(changed.state), later.step_size) == (0.1, {}, 20)
            if takes_the_run:
                ckpt.save(2).wait()
    saved = load(tmp_path / "whole").state
    assert (saved["optimizer"]["param_groups"][0]["lr"], saved["scheduler"]["step_size"]) == (0.1, 20)


def test_b22_the_best_has_the_name_that_scripts_look_for(tmp_path: Path) -> None:
    """``BEST_CHECKPOINT``, which the original had lead nowhere (R23)."""
    with (
        Run.open(tmp_path, compat_names=["best_checkpoint"], logs=False) as run,
        AsyncCheckpointer(run, model=nn.Linear(2, 2), monitor=("loss", "min"), extra={"own": _Own()}) as ckpt,
    ):
        for step, loss in ((1, 0.1), (2, 0.9), (2, 0.8)):
            ckpt.save(step, metrics={"loss": loss}).wait()  # a step that is saved again is no error either
    assert json.loads((tmp_path / "best_checkpoint/manifest.json").read_text())["step"] == 1
    assert load(tmp_path).state["extra"]["own"] == {"number": 7}
    own = _Own()
    with AsyncCheckpointer(tmp_path, model=nn.Linear(2, 2), extra={"own": own}) as ckpt:
        ckpt.resume()
    assert own.found == [{"number": 7}]


class _Own:
    """``extra_state``."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"number": 7}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.found.append(state)
