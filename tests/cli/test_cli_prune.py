"""``prune``, ``tag``, ``pin`` and ``unpin``: the commands that write, beside a training and without one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.cli.app import app
from asyncckpt.errors import Fenced, SaveFailed, StorageDenied

from .conftest import flip

LOSSES = {1: 0.5, 2: 0.1, 3: 0.9, 4: math.nan, 5: 0.7, 6: 0.6}


class Training:
    """A model of one number, saved at every step."""

    def __init__(self, root: Path) -> None:
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.ckpt = AsyncCheckpointer(root, model=self.model, monitor=("loss", "min"))

    def save(self, step: int) -> None:
        self.model.weight.data.fill_(step)
        self.ckpt.save(step, epoch=step // 2, metrics={"loss": LOSSES.get(step, 1.0)}).wait()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A finished run of six checkpoints."""
    training = Training(tmp_path / "run")
    with training.ckpt:
        for step in LOSSES:
            training.save(step)
    return tmp_path / "run"


def run(*arguments: object, code: int = 0, **options: Any) -> str:
    found = CliRunner().invoke(app, list(map(str, arguments)), **options)
    assert found.exit_code == code, found.output
    return found.output


def listed(root: Path) -> list[int]:
    return [row["step"] for row in json.loads(run("ls", root, "--json"))["checkpoints"]]


def folders(root: Path) -> list[int]:
    return sorted(int(path.name.split("-")[2]) for path in root.glob("data/*"))


def flip_pack(root: Path, step: int) -> None:
    (pack,) = root.glob(f"data/*-step-{step}-*/*.safetensors")
    flip(pack)


# -- prune -----------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_goes_and_why_and_removes_nothing(root: Path) -> None:
    said = run("prune", root, "--keep-last", 2, "--keep-every-steps", 3, "--dry-run").splitlines()
    plans = {line.split()[1]: " ".join(line.split()[4:]) for line in said[1:-1]}
    assert plans == {
        "1": "remove no rule keeps it: last 2, every 3 steps",
        "2": "keep best loss, 0.1",
        "3": "keep every 3 steps",
        "4": "remove no rule keeps it: last 2, every 3 steps",
        "5": "keep last 2",
        "6": "keep latest, last 2, every 3 steps",
    }
    assert said[-1].startswith("2 of 6 to remove")
    assert listed(root) == [1, 2, 3, 4, 5, 6]


def test_what_is_confirmed_is_removed_with_its_bytes(root: Path) -> None:
    said = run("prune", root, "--keep-last", 2, "--yes")
    assert "removed 3, freed" in said
    assert (listed(root), folders(root)) == ([2, 5, 6], [2, 5, 6])
    assert asyncckpt.load(root, 2).state["model"]["weight"].item() == 2
    assert "0 of 3 to remove" in run("prune", root, "--keep-last", 2, "--yes")


def test_the_json_has_the_whole_plan(root: Path) -> None:
    found = json.loads(run("prune", root, "--keep-best", 2, "--dry-run", "--json"))
    assert found["schema"] == 1
    assert {row["step"]: row["reasons"] for row in found["kept"]} == {
        1: ["best 2"],
        2: ["best loss, 0.1", "best 2"],
        6: ["latest"],
    }
    assert [row["step"] for row in found["removed"]] == [3, 4, 5]
    assert found["done"] is None
    assert found["freed"] > 3 * 4096


def test_another_metric_may_say_what_is_best(root: Path) -> None:
    kept = json.loads(run("prune", root, "--keep-best", 1, "--monitor", "loss:max", "--dry-run", "--json"))["kept"]
    assert [row["step"] for row in kept] == [3, 6]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what to keep"),
        (("--keep-last", 0), "--keep-last"),
        (("--keep-best", 1, "--monitor", "loss"), "use NAME:min or NAME:max"),
        (("--keep-last", 1), "use --yes"),
    ],
)
def test_a_wrong_command_line_says_so_and_removes_nothing(root: Path, arguments: tuple[object, ...], said: str) -> None:
    assert said in run("prune", root, *arguments, code=2)
    assert listed(root) == [1, 2, 3, 4, 5, 6]


def test_one_checkpoint_cannot_be_pruned(root: Path) -> None:
    assert "leave out the @" in run("prune", f"{root}@2", "--keep-last", 1, code=2)


def test_a_plan_that_was_looked_at_is_carried_out_as_it_was(root: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(run("prune", root, "--keep-last", 1, "--dry-run", "--json"))
    assert [row["step"] for row in json.loads(plan.read_text())["removed"]] == [1, 3, 4, 5]
    run("prune", root, "--keep-last", 5, "--yes")  # the first is gone
    run("tag", f"{root}@3", "paper")
    flip_pack(root, 4)
    run("verify", f"{root}@4", "--note", code=1)
    with AsyncCheckpointer(root, model=torch.nn.Linear(1, 1, bias=False), monitor=("loss", "min")) as ckpt:
        ckpt.resume()
        ckpt.save(7, metrics={"loss": 0.5}).wait()
    shown = run("prune", root, "--apply", plan, "--dry-run")
    assert shown.startswith("1 of 4 in the plan are not listed any more\n")
    assert "remove  no rule keeps it: last 1" in shown
    assert listed(root) == [2, 3, 4, 5, 6, 7]
    assert "removed 1, freed" in run("prune", root, "--apply", plan, "--yes")
    assert listed(root) == [2, 3, 4, 6, 7], "marked, or found damaged, since then; or saved since then"
    assert "nobody is there to ask" not in run("prune", root, "--apply", plan)


def test_a_plan_takes_what_it_knew_to_be_damaged(root: Path, tmp_path: Path) -> None:
    flip_pack(root, 4)
    run("verify", f"{root}@4", "--note", code=1)
    (tmp_path / "plan").write_text(run("prune", root, "--damaged", "--dry-run", "--json"))
    assert "removed 1, freed" in run("prune", root, "--apply", tmp_path / "plan", "--yes")
    assert listed(root) == [1, 2, 3, 5, 6]


def test_what_is_no_plan_of_this_run_is_refused(root: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    said = json.loads(run("prune", root, "--keep-last", 1, "--dry-run", "--json"))
    for text, why in {
        "no JSON": "is no plan that prune --json has printed",
        json.dumps({**said, "removed": [{"seq": 1}]}): "is no plan that prune --json has printed",
        json.dumps({**said, "schema": 2}): "is of schema 2, and this reads 1",
        json.dumps({**said, "run": "another"}): "is of another run",
    }.items():
        plan.write_text(text)
        assert why in run("prune", root, "--apply", plan, "--yes", code=2)
    plan.write_text(json.dumps(said))
    for option in (("--keep-last", 1), ("--damaged",), ("--monitor", "loss:min")):
        assert "leave out rules" in run("prune", root, "--apply", plan, *option, code=2)
    assert listed(root) == list(LOSSES)


def test_without_a_metric_there_is_no_best(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    with AsyncCheckpointer(tmp_path / "run", model=model) as ckpt:
        ckpt.save(1).wait()
    assert "--keep-best needs --monitor" in run("prune", tmp_path / "run", "--keep-best", 1, code=2)


def test_an_empty_root_has_nothing_to_remove(tmp_path: Path) -> None:
    assert run("prune", tmp_path, "--keep-last", 1) == f"{tmp_path} holds no checkpoints\n"
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_holds_the_run_is_asked_and_removes_them_with_its_next_save(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    with training.ckpt:
        for step in (1, 2, 3):
            training.save(step)
        assert "asked process" in run("prune", tmp_path / "run", "--keep-last", 1, "--yes")
        assert listed(tmp_path / "run") == [1, 2, 3]
        training.save(4)
        assert listed(tmp_path / "run") == [2, 3, 4], "the best stays"
    assert folders(tmp_path / "run") == [2, 3, 4]


def test_a_run_that_is_taken_over_stops_the_training(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    for step in (1, 2, 3):
        training.save(step)
    assert "removed 1," in run("prune", tmp_path / "run", "--keep-last", 1, "--yes", "--take-over")
    with pytest.raises(SaveFailed) as failed:
        training.save(4)
    assert isinstance(failed.value.__cause__, Fenced)
    training.ckpt.close()
    assert listed(tmp_path / "run") == [2, 3]


class Asked:
    """Stands in for a person at a terminal: does something before the answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], answer: bool) -> None:
        self.stdin = self
        self._act, self._answer = act, answer
        monkeypatch.setattr("asyncckpt.cli.prune.sys", self)
        monkeypatch.setattr("asyncckpt.cli.prune.click.confirm", self.confirm)

    @property
    def stderr(self) -> object:
        return sys.stderr

    def isatty(self) -> bool:
        return True

    def confirm(self, text: str, **options: object) -> bool:
        self._act()
        return self._answer


def test_a_plan_that_is_declined_removes_nothing_and_is_no_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Asked(monkeypatch, lambda: None, answer=False)
    assert run("prune", root, "--keep-last", 1).endswith("nothing was removed\n")
    assert listed(root) == list(LOSSES)


def test_whoever_is_asked_has_seen_the_plan_and_json_comes_whatever_the_answer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Asked(monkeypatch, lambda: None, answer=False)
    said = run("prune", root, "--keep-last", 2, "--json")
    plan, _, found = said.partition("nothing was removed\n")
    assert "3 of 6 to remove" in plan
    assert json.loads(found)["done"] is None
    assert listed(root) == list(LOSSES)


def test_a_training_that_starts_while_somebody_thinks_the_plan_over_is_not_stopped(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(root)
    with training.ckpt:
        Asked(monkeypatch, training.ckpt.resume, answer=True)
        assert "taken by another process meanwhile" in run("prune", root, "--keep-last", 1, code=4)
        training.save(7)
    assert listed(root) == [*LOSSES, 7]


def test_what_could_not_be_deleted_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*arguments: object) -> None:
        raise StorageDenied("not now")

    monkeypatch.setattr("asyncckpt.worker.commitlog.prune.unreachable", refuse)
    told = run("prune", root, "--keep-last", 1, "--yes")
    assert "left to the next start: deletion of dropped checkpoints: not now" in told
    assert listed(root) == [2, 6]


# -- tag, pin, unpin -------------------------------------------------------------------------------------------


def test_a_tag_names_a_checkpoint_and_keeps_it(root: Path) -> None:
    assert run("tag", f"{root}@3", "paper/v1") == "00000003 (step 3) is now paper/v1\n"
    assert "tag:paper/v1" in run("ls", root)
    run("prune", root, "--keep-last", 1, "--yes")
    assert listed(root) == [2, 3, 6]
    assert asyncckpt.load(root, "paper/v1").info.tags == ("paper/v1",)
    assert json.loads(run("show", f"{root}@00000003", "--json"))["tags"] == ["paper/v1"]


def test_a_tag_moves_and_goes(root: Path) -> None:
    run("tag", f"{root}@3", "paper")
    assert json.loads(run("tag", root, "paper", "--json"))["id"] == "00000006"
    assert json.loads(run("show", f"{root}@paper", "--json"))["step"] == 6
    assert run("tag", "--delete", root, "paper") == "the tag paper is gone\n"
    assert "has the tag paper" in run("tag", "--delete", root, "paper", code=3)
    assert "no checkpoint 'paper'" in run("show", f"{root}@paper", code=3)


def test_what_cannot_be_a_tag_or_be_tagged_is_refused(root: Path) -> None:
    assert "cannot be a tag" in run("tag", root, "latest", code=2)
    for command in (("tag", f"{root}@99", "paper"), ("diff", root, "@99"), ("show", f"{root}@99")):
        assert f"{root}: no checkpoint 99" in run(*command, code=3)
    assert "leave out the @" in run("tag", "--delete", f"{root}@3", "paper", code=2)
    assert not (root / "user").exists()


def test_a_pinned_checkpoint_stays_until_it_is_unpinned(root: Path) -> None:
    assert run("pin", f"{root}@1") == "00000001 (step 1) is pinned\n"
    assert json.loads(run("pin", f"{root}@1", "--json"))["pinned"] is True
    assert "pinned" in run("ls", root).splitlines()[1]
    run("prune", root, "--keep-last", 1, "--yes")
    assert listed(root) == [1, 2, 6]
    assert run("unpin", f"{root}@1") == "00000001 is left to retention\n"
    assert json.loads(run("unpin", f"{root}@1", "--json"))["pinned"] is False
    assert run("unpin", f"{root}@1") == "00000001 was not pinned\n"
    run("prune", root, "--keep-last", 1, "--yes")
    assert (listed(root), folders(root)) == ([2, 6], [2, 6])


def test_a_training_spares_what_was_pinned_while_it_ran(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    with training.ckpt:
        for step in (3, 5):
            training.save(step)
        run("pin", f"{tmp_path / 'run'}@3")
        (info, _) = training.ckpt.checkpoints()
        assert info.pinned
        run("prune", tmp_path / "run", "--keep-last", 1, "--yes")
        training.save(6)
        assert listed(tmp_path / "run") == [3, 5, 6]


def test_pruning_by_the_training_itself_follows_its_policy(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with AsyncCheckpointer(tmp_path / "run", model=model) as ckpt:
        for step in (1, 2, 3):
            model.weight.data.fill_(step)
            ckpt.save(step).wait()
    keep = asyncckpt.RetentionPolicy(last=1)
    with AsyncCheckpointer(tmp_path / "run", model=model, keep=keep) as ckpt:
        planned = ckpt.prune(dry_run=True)
        assert [gone.step for gone in planned.removed] == [1, 2]
        assert isinstance(planned, asyncckpt.PrunePlan)
        ckpt.resume()
        assert ckpt.prune() == planned
        assert [info.step for info in ckpt.checkpoints()] == [3]
    assert folders(tmp_path / "run") == [3]


@pytest.mark.parametrize("arguments", [("pin",), ("tag", "paper")])
def test_beside_a_training_a_mark_says_from_when_on_it_counts(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command, *more = arguments
    training = Training(tmp_path / "run")
    with training.ckpt:
        training.save(1)
        told = run(command, tmp_path / "run", *more)
        assert "a training may hold this run: it takes that into account from its next save on\n" in told
    assert "may hold" not in run(command, tmp_path / "run", *more)
