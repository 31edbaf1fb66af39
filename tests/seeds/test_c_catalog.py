"""Tags, names, what is found again, and the history (features C17 to C19, C22 to C24, C26, C27)."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import asyncckpt
from asyncckpt import AsyncCheckpointer, RetentionPolicy, Run, TrainingState
from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointNotFoundError, Fenced, SaveFailed, StorageDenied
from asyncckpt.events import Pruned
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.training import BestTag, CheckpointConfig, HistoryFile, LatestTag
from tests.checkpointer.trainings import Elsewhere, Recorder, elsewhere

from .runs import listed, opened, saved, steps

LOSS = ("val_loss", "min")


def cli(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# -- C17, C18: tags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MyModel", "org/my model", "größe"])
def test_c17_a_tag_goes_with_the_best(tmp_path: Path, name: str) -> None:
    root = tmp_path / "run"
    config = CheckpointConfig(save_on_best_metric="val_loss", commit_message_template="val {val_loss:.2f}")
    keywords = config.keywords(root, name)
    (tag,) = keywords["listeners"]
    assert isinstance(tag, BestTag)
    with opened(root, **keywords) as ckpt:
        for step, (value, best) in enumerate([(0.5, 1), (0.4, 2), (0.6, 2), (0.1, 4)], 1):
            ckpt.save(step, metrics={"val_loss": value}).wait()
            assert tag.wait(60)
            assert [info.step for info in ckpt.checkpoints() if f"{name}_best" in info.tags] == [best]
        found = ckpt.restore(f"{name}_best")
        assert (found.step, found.metrics) == (4, {"val_loss": 0.1})
        (info,) = (info for info in ckpt.checkpoints() if info.tags)
        assert info.message == "val 0.10"
    assert asyncckpt.load(root, f"{name}_best").info.step == 4


def test_c17_late_metrics_and_a_restart_move_it_too(tmp_path: Path) -> None:
    root = tmp_path / "run"
    tag = BestTag(root, "m_best")
    with opened(root, monitor=LOSS, listeners=[tag]) as ckpt:
        saved(ckpt, [0.5, 0.9])
        ckpt.record(2, {"val_loss": 0.1}).result()
        assert tag.wait(60)
        assert asyncckpt.load(root, "m_best").info.step == 2
    cli("tag", root, "m_best", "--delete")
    with opened(root, monitor=LOSS, listeners=[tag]) as ckpt:
        ckpt.resume()
        assert tag.wait(60)
    assert asyncckpt.load(root, "m_best").info.step == 2
    keywords = CheckpointConfig(save_on_best_metric="val_loss", minimize_metric=False).keywords(root, "other")
    (other,) = keywords["listeners"]
    assert isinstance(other, BestTag)
    with opened(root, **keywords) as ckpt:  # what is best is decided otherwise from now on, and nothing is saved yet
        ckpt.resume()
        assert other.wait(60)
    assert asyncckpt.load(root, "other_best").info.step == 1


def test_c17_without_a_tag_the_best_is_known_all_the_same(tmp_path: Path) -> None:
    config = CheckpointConfig(save_on_best_metric="val_loss", tag_best_checkpoints=False)
    keywords = config.keywords(tmp_path / "run", "m")
    assert keywords["listeners"] == []
    with opened(tmp_path / "run", **keywords) as ckpt:
        saved(ckpt, [0.5, 0.1, 0.9])
        assert ckpt.restore("best").step == 2
        assert [info.tags for info in ckpt.checkpoints()] == [()] * 3


def test_c17_a_tag_that_cannot_be_put_is_a_warning_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    store = GatedStorage(MemoryStorage("c17"))
    store.fail("put", "user/*", lambda: StorageDenied(13, "Permission denied"))
    tag = BestTag(store, "m_best")
    with AsyncCheckpointer(
        store, model=torch.nn.Linear(2, 2), monitor=LOSS, listeners=[tag], executor="thread"
    ) as ckpt:
        saved(ckpt, [0.5, 0.1])
        assert tag.wait(60)
        assert steps(ckpt.checkpoints()) == [1, 2]
    assert caplog.text.count("the tag 'm_best' could not be brought up to date") == 1


def test_c18_tags_name_a_checkpoint_keep_it_and_are_one_checkpoints_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with opened(root, keep=RetentionPolicy(last=1)) as ckpt:
        ckpt.save(1).wait()
        for tag in ("checkpoint", "experiment_001"):
            cli("tag", f"{root}@1", tag)
        for step in (2, 3):
            ckpt.save(step).wait()
        assert [(info.step, info.tags) for info in ckpt.checkpoints()] == [
            (1, ("checkpoint", "experiment_001")),
            (3, ()),
        ]
        assert listed(ckpt) == [1, 3]
        assert ckpt.restore("experiment_001").step == 1
        cli("tag", f"{root}@3", "checkpoint")
        assert [info.tags for info in ckpt.checkpoints()] == [("experiment_001",), ("checkpoint",)]


def test_c18_an_experiments_name_goes_with_its_latest_checkpoint(tmp_path: Path) -> None:
    root = tmp_path / "run"
    config = CheckpointConfig(tag_best_checkpoints=False, keep_last_n_checkpoints=1)
    keywords = config.keywords(root, experiment_name="experiment_001")
    (tag,) = keywords["listeners"]
    assert isinstance(tag, LatestTag)
    with opened(root, **keywords) as ckpt:
        for step, loss in (
            (1, 0.4),
            (2, 0.3),
            (3, 0.2),
            (2, 0.3),
        ):  # the last goes back, and is the latest, not the best
            ckpt.save(step, metrics={"loss": loss}).wait()
            assert tag.wait(60)
            assert ckpt.restore("experiment_001").step == step
            assert len([info for info in ckpt.checkpoints() if info.tags]) == 1
        assert len(ckpt.checkpoints()) <= 2  # the one before it is spared until the tag has moved
    assert asyncckpt.load(root, "experiment_001").info.seq == 4


# -- C19, C22 to C24: names and what is found ----------------------------------------------------------------


def test_c19_an_experiment_is_named_after_its_time_and_what_it_holds_is_there_again(tmp_path: Path) -> None:
    before = datetime.now().replace(microsecond=0)
    with Run.open(f"{tmp_path}/{{id}}", name="experiment", logs=False) as run:
        match = re.fullmatch(r"experiment_(\d{8}_\d{6})_\w+(-dirty)?", run.id)
        assert match
        assert before <= datetime.strptime(match[1], "%Y%m%d_%H%M%S") <= datetime.now()
        with opened(run, monitor=LOSS) as ckpt:
            saved(ckpt, [0.5, 0.1, 0.9])
        path = run.root
    with Run.open(path, mode="resume", logs=False) as run, opened(run, monitor=LOSS) as ckpt:
        assert run.name == "experiment"
        assert steps(ckpt.checkpoints()) == [1, 2, 3]
        assert ckpt.restore("best").step == 2


def test_c19_a_manager_that_is_made_again_knows_what_was_there(tmp_path: Path) -> None:
    """Repository, configuration and model's name are all that it takes; the name of the experiment is the folder's."""
    root = tmp_path / "experiment_20260102_030405"
    config = CheckpointConfig(save_every_n_steps=1, save_on_best_metric="val_loss", keep_last_n_checkpoints=2)

    def made() -> tuple[AsyncCheckpointer, BestTag, HistoryFile]:
        keywords = config.keywords(root, "MyModel")
        (tag,) = keywords.pop("listeners")
        file = HistoryFile(root, model_name="MyModel", experiment_name=root.name)
        return opened(root, listeners=[tag, file], **keywords), tag, file

    ckpt, tag, file = made()
    with ckpt:
        assert (ckpt.resume(), ckpt.checkpoints(), ckpt.best()) == (None, [], None)
        for step, value in enumerate([0.1, 0.5, 0.4], 1):
            assert ckpt.step(step, metrics={"val_loss": value}) is not None
            ckpt.wait()
        assert tag.wait(60)
        assert file.wait(60)
    ckpt, tag, file = made()
    with ckpt:
        assert [(info.step, info.is_best, info.tags) for info in ckpt.checkpoints()] == [
            (1, True, ("MyModel_best",)), (2, False, ()), (3, False, ())
        ], "what was there is there before anything is said"  # fmt: skip
        assert ckpt.resume() is not None
        ckpt.step(4, metrics={"val_loss": 0.3})
        ckpt.wait()
        assert tag.wait(60)
        assert file.wait(60)
        assert [(info.step, info.is_best) for info in ckpt.checkpoints()] == [(1, True), (3, False), (4, False)]
        assert ckpt.restore("MyModel_best").step == 1, "worse than what an earlier start had is no best"
    found = history(root)
    assert (found["model_name"], found["experiment_name"], found["best"]) == ("MyModel", root.name, "00000001")
    with Run.open(tmp_path / "experiment_1", logs=False) as run:
        assert run.name == "experiment_1"


def test_c22_what_is_there_is_found_by_every_name_it_has(tmp_path: Path) -> None:
    with opened(tmp_path / "run", monitor=LOSS) as ckpt:
        assert ckpt.resume() is None
        assert ckpt.latest() is None
        saved(ckpt, [0.5, 0.1, 0.9], first=11)
        assert [ckpt.restore(which).step for which in ("latest", "best", 11, "00000002")] == [13, 12, 11, 12]
        assert (ckpt.restore().step, ckpt.restore("best").metrics) == (13, {"val_loss": 0.1})
    assert asyncckpt.load(tmp_path / "run", "best").state["model"].keys() == {"weight", "bias"}


@pytest.mark.parametrize("which", ["00000009", "deadbeef", 9, "best"])
def test_c22_what_is_not_there_is_an_error_that_names_it_and_nothing_else_is_taken(tmp_path: Path, which: Any) -> None:
    """The original gave empty weights for an unknown hash, and the latest where there was no best."""
    model = torch.nn.Linear(2, 2)
    with opened(tmp_path / "run", model=model, keep=RetentionPolicy(last=2)) as ckpt:
        saved(ckpt, [None] * 3)
        torch.nn.init.constant_(model.weight, 9)
        with pytest.raises(CheckpointNotFoundError, match=f"no checkpoint {which!r}: steps 2, 3 are there"):
            ckpt.restore(which)
        with pytest.raises(CheckpointNotFoundError, match="no checkpoint '00000001'"):  # pruned
            ckpt.restore("00000001")
        assert model.weight.eq(9).all()
        assert ckpt.best() is None


@pytest.mark.parametrize("part", ["0", "000", "1000000"])
def test_c22_a_part_of_an_id_names_nothing(tmp_path: Path, part: str) -> None:
    """Leading zeros are padding: an id is its number, and what could mean several means none."""
    with opened(tmp_path / "run") as ckpt:
        saved(ckpt, [None] * 11)
        with pytest.raises(CheckpointNotFoundError, match=f"no checkpoint '{part}'"):
            ckpt.restore(part)
        assert [ckpt.restore(which).step for which in ("1", "0001", "00000001", "11")] == [1, 1, 1, 11]


def test_c22_what_is_loaded_says_which_it_is_and_holds_weights_and_state(tmp_path: Path) -> None:
    """``{weights, state, commit_hash}`` of the original; of an empty run None, or an error where one is named."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with opened(tmp_path / "run", model=model, optimizer=optimizer, monitor=LOSS) as ckpt:
        for which in ("latest", "best", 1, "00000001"):
            with pytest.raises(CheckpointNotFoundError, match="the run holds none"):
                ckpt.restore(which)
        assert ckpt.resume() is None
        saved(ckpt, [0.5, 0.1, 0.9])
    for which, step, value in (("latest", 3, 0.9), ("best", 2, 0.1), (1, 1, 0.5), ("00000002", 2, 0.1)):
        found = asyncckpt.load(tmp_path / "run", which)
        assert (found.info.id, found.info.step) == (f"{step:08d}", step)
        assert torch.equal(found.state["model"]["weight"], model.weight)
        assert (found.training.step, found.training.metrics) == (step, {"val_loss": value})
        assert found.training.optimizer_state["state"][0]["exp_avg"].shape == (2, 2)
    with opened(tmp_path / "none") as ckpt:
        saved(ckpt, [None])
        with pytest.raises(CheckpointNotFoundError, match="no checkpoint 'best'"):
            ckpt.restore("best")


def test_c23_every_checkpoint_is_listed_with_what_is_known_of_it(tmp_path: Path) -> None:
    with opened(tmp_path / "run", monitor=LOSS) as ckpt:
        saved(ckpt, [0.5, 0.1, 0.9])
        listed = ckpt.checkpoints()
        assert [(info.id, info.step, info.epoch, info.metrics["val_loss"]) for info in listed] == [
            ("00000001", 1, 1, 0.5),
            ("00000002", 2, 2, 0.1),
            ("00000003", 3, 3, 0.9),
        ]
        assert [info.step for info in listed if info.is_best] == [2]  # with the original there were none
        assert [info.created for info in listed] == sorted(info.created for info in listed)
        listed.clear()
        listed = ckpt.checkpoints()
        listed[0].metrics.update(val_loss=0)  # type of a Mapping in annotations only: it is the caller's own
        assert ckpt.checkpoints()[0].metrics == {"val_loss": 0.5}
    rows = json.loads(cli("ls", tmp_path / "run", "--json"))["checkpoints"]
    assert [(row["step"], row["best"]) for row in rows] == [(1, False), (2, True), (3, False)]


def test_c23_what_a_handle_has_told_is_the_callers_own(tmp_path: Path) -> None:
    with opened(tmp_path / "run", monitor=LOSS, keep=RetentionPolicy(last=1)) as ckpt:
        saved(ckpt, [0.1, 0.5])
        ckpt.save(3, metrics={"val_loss": 0.4}).wait().metrics.update(val_loss=0)
        saved(ckpt, [0.3, 0.2], first=4)
        assert listed(ckpt) == [1, 5], "what is best is nobody's to change"


def test_c24_one_checkpoint_is_looked_up_or_there_is_none(tmp_path: Path) -> None:
    with opened(tmp_path / "run", monitor=LOSS) as ckpt:
        saved(ckpt, [0.5, 0.1])
        by_id = {info.id: info for info in ckpt.checkpoints()}
        assert by_id["00000002"] == ckpt.best()
        assert by_id.get("00000009") is None
    assert json.loads(cli("show", f"{tmp_path / 'run'}@00000001", "--json"))["step"] == 1


def test_c26_the_training_state_is_json_beside_the_weights(tmp_path: Path) -> None:
    """And is read without them, by a process that has no torch."""
    about = TrainingState(batch_size=32, model_name="MyModel", notes="first try")
    with opened(tmp_path / "run", extra={"about": about}) as ckpt:
        ckpt.save(5, epoch=2, metrics={"loss": 0.25}).wait()
    (manifest,) = (tmp_path / "run" / "data").glob("*/manifest.json")
    values = json.loads(manifest.read_bytes())["values"]
    assert '"batch_size": 32' in json.dumps(values)
    for pack in (tmp_path / "run").rglob("*.safetensors"):
        pack.unlink()
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from asyncckpt.cli import main\n"
        f"sys.argv = ['asyncckpt', 'show', {str(tmp_path / 'run')!r}, '--json']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = {value["name"]: value["text"] for value in json.loads(done.stdout)["values"]}
    assert found["extra.about.training_state.batch_size"] == "32"
    assert found["extra.about.training_state.notes"] == "'first try'"


# -- C27: the history ----------------------------------------------------------------------------------------


def history(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "history.json").read_text())
    return found


def test_c27_the_history_holds_what_the_catalog_does_after_pruning_too(tmp_path: Path) -> None:
    """The original wrote it before it pruned, and what was pruned came back with a restart."""
    root = tmp_path / "run"
    file = HistoryFile(root, model_name="MyModel", experiment_name="experiment_001")
    with opened(root, keep=RetentionPolicy(last=2), monitor=LOSS, listeners=[file]) as ckpt:
        saved(ckpt, [0.5, 0.1, 0.9, float("nan"), float("inf")])
        assert file.wait(60)
        found = history(root)
        assert [(each["id"], each["step"]) for each in found["checkpoints"]] == [
            (info.id, info.step) for info in ckpt.checkpoints()
        ]
    assert (found["model_name"], found["experiment_name"]) == ("MyModel", "experiment_001")
    assert (found["best"], found["best_value"], found["monitor"]) == ("00000002", 0.1, ["val_loss", "min"])
    assert [each["metrics"]["val_loss"] for each in found["checkpoints"]] == [0.1, "nan", "inf"]
    with opened(root, keep=RetentionPolicy(last=2), monitor=LOSS, listeners=[file]) as ckpt:
        ckpt.resume()
        saved(ckpt, [0.8], first=6)
        assert file.wait(60)
        assert [each["step"] for each in history(root)["checkpoints"]] == [2, 5, 6]
    told = Recorder()  # behind the file: what it has heard, that has
    with opened(root, keep=RetentionPolicy(last=1), monitor=LOSS, listeners=[file, told]) as ckpt:
        ckpt.resume()
        assert file.wait(60)
        ckpt.prune()  # without a save
        told.wait_for(Pruned)
        assert file.wait(60)
        assert [each["step"] for each in history(root)["checkpoints"]] == [2, 6]


def test_c17_c27_a_tag_that_moves_after_the_history_was_written_is_in_it() -> None:
    memory = MemoryStorage("c27-tag")
    store = GatedStorage(memory)
    tag, file = BestTag(store, "m_best", monitor=LOSS), HistoryFile(store, monitor=LOSS)
    with AsyncCheckpointer(
        store, model=torch.nn.Linear(2, 2), monitor=LOSS, listeners=[tag, file], executor="thread"
    ) as ckpt:
        with store.hold("put", "user/*") as gate:
            saved(ckpt, [0.5])
            gate.wait_reached()
            assert file.wait(60)
            assert [each["tags"] for each in written(memory)["checkpoints"]] == [[]]
        assert tag.wait(60)
        assert file.wait(60)
        assert [each["tags"] for each in written(memory)["checkpoints"]] == [["m_best"]]
        saved(ckpt, [0.6], first=2)
        assert tag.wait(60)
        assert store.count("put", "user/*-tag-*") == 1, "where it is already it is not put again"


def written(store: MemoryStorage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(asyncio.run(store.get("history.json"))))
    return found


def test_c27_a_folder_is_the_same_one_after_the_working_directory_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = HistoryFile("run")
    with opened(tmp_path / "run", listeners=[file]) as ckpt:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        saved(ckpt, [None])
        assert file.wait(60)
    assert [each["step"] for each in history(tmp_path / "run")["checkpoints"]] == [1]


@pytest.mark.parametrize("damage", [b"", b'{"checkpoints": [', None], ids=["empty", "torn", "gone"])
def test_c27_a_damaged_history_costs_nothing_and_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    root = tmp_path / "run"
    file = HistoryFile(root)
    with opened(root, listeners=[file]) as ckpt:
        saved(ckpt, [None, None])
        assert file.wait(60)
    if damage is None:
        (root / "history.json").unlink()
    else:
        (root / "history.json").write_bytes(damage)
    with opened(root, listeners=[file]) as ckpt:
        assert ckpt.resume() is not None
        assert file.wait(60)
    assert [each["step"] for each in history(root)["checkpoints"]] == [1, 2]


KILLED = """
import os, signal, sys, torch
from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.training import HistoryFile
root, held = sys.argv[1], sys.argv[2]
from asyncckpt.storage.local import LocalStorage
put, written = LocalStorage.put, 0

async def killing(self, key, *arguments, **named):
    global written
    written += key == "history.json"
    if key == "history.json" and written == 3:
        if held == "after":
            await put(self, key, *arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return await put(self, key, *arguments, **named)

LocalStorage.put = killing
file = HistoryFile(root, model_name="MyModel")
options = dict(keep=RetentionPolicy(last=2), monitor=("val_loss", "min"), listeners=[file], executor="thread")
with AsyncCheckpointer(root, model=torch.nn.Linear(2, 2), **options) as ckpt:
    for step in range(1, 9):
        ckpt.save(step, metrics={"val_loss": 1 / step}).wait()
        file.wait(60)
"""


@pytest.mark.kills
@pytest.mark.parametrize("killed", ["before", "after"])
def test_c27_who_is_killed_while_it_is_written_leaves_a_whole_one_that_the_next_start_brings_up_to_date(
    tmp_path: Path, killed: str
) -> None:
    root = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), killed], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = history(root)
    assert left["model_name"] == "MyModel"
    file = HistoryFile(root, model_name="MyModel")
    with opened(root, keep=RetentionPolicy(last=2), monitor=LOSS, listeners=[file]) as ckpt:
        listed = [(info.id, info.step) for info in ckpt.checkpoints()]
        assert len(left["checkpoints"]) in (len(listed), len(listed) - 1, len(listed) + 1)
        assert ckpt.resume() is not None
        assert file.wait(60)
        assert [(each["id"], each["step"]) for each in history(root)["checkpoints"]] == listed
        saved(ckpt, [0.01], first=listed[-1][1] + 1)
        assert file.wait(60)
        found = history(root)
        assert [each["step"] for each in found["checkpoints"]] == [info.step for info in ckpt.checkpoints()]
        assert found["best_value"] == 0.01
    assert not [path for path in root.iterdir() if path.name.startswith(".")], "no draft is left"


def test_c27_the_training_does_not_wait_for_it_and_it_is_never_half_written() -> None:
    memory = MemoryStorage("c27")
    store = GatedStorage(memory)
    file = HistoryFile(store)
    with AsyncCheckpointer(store, model=torch.nn.Linear(2, 2), listeners=[file], executor="thread") as ckpt:
        with store.hold("put", "history.json") as gate:
            saved(ckpt, [None, None, None])  # all three durable while the first is still being written
            gate.wait_reached()
            assert not file.wait(0)
        assert file.wait(60)
        assert store.count("put", "history.json") <= 3
        assert [each["step"] for each in written(memory)["checkpoints"]] == [1, 2, 3], "what came meanwhile is in it"
        store.fail("put", "history.json", lambda: StorageDenied(28, "No space left on device"))
        saved(ckpt, [None], first=4)
        assert file.wait(60)
        assert steps(ckpt.checkpoints()) == [1, 2, 3, 4]


def test_c27_of_two_writers_the_one_that_holds_the_run_writes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStorage("c27-two")
    stores = [GatedStorage(memory), Elsewhere(memory)]
    files = [HistoryFile(store) for store in stores]

    def made(number: int) -> AsyncCheckpointer:
        model = torch.nn.Linear(2, 2)
        return AsyncCheckpointer(stores[number], model=model, listeners=[files[number]], executor="thread")

    first = made(0)
    saved(first, [None])
    elsewhere(monkeypatch)
    with made(1) as second:
        second.resume()
        saved(second, [None], first=2)
        with pytest.raises((SaveFailed, Fenced)):
            first.save(3).wait()
        first.close()
        assert all(file.wait(60) for file in files)
        assert [each["step"] for each in written(memory)["checkpoints"]] == [1, 2] == steps(second.checkpoints())
