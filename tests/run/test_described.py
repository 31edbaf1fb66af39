"""A run's folder explains itself (features B8, B10, B11, B12, D27)."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, RetentionPolicy, Run, SavePolicy, guarded, load
from asyncckpt.errors import StorageDenied
from asyncckpt.run import guard, load_results
from asyncckpt.run.hyperparameters import hyperparameters
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.ranks import run_ranks

from .conftest import Place, Train

NAMES = ("checkpoint-epoch{epoch}-step{step}", "best_checkpoint", "checkpoint_latest.pt")


def said(place: Place, key: str) -> Any:
    return json.loads(place.read(key) or b"{}")


# -- B10 ---------------------------------------------------------------------------------------------------


def test_b10_the_tree_after_a_short_training(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("epochs: 2\n")
    root = tmp_path / "run"
    model = nn.Linear(2, 2)
    with Run.open(root, config=tmp_path / "c.yml", compat_names=NAMES) as run:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with AsyncCheckpointer(run, model=model, optimizer=optimizer, monitor=("loss", "min")) as ckpt:
            for step, loss in ((100, 0.5), (200, 0.1), (300, 0.9)):
                ckpt.save(step, epoch=step // 100, metrics={"loss": loss})
        run.save_results({"loss": 0.1})
    names = {path.name for path in root.iterdir()}
    assert {
        *("config.yml", "config.json", "identity.json", "hyperparameters.json", "model_summary.txt", "results.json"),
        *("readme.md", "logs", "data", "commits", "checkpoints", "run.json"),
        *("checkpoint-epoch1-step100", "checkpoint-epoch2-step200", "checkpoint-epoch3-step300"),
        *("best_checkpoint", "checkpoint_latest.pt"),
    } <= names
    assert "wandb_info.json" not in names
    steps = {name: step_of(root / name) for name in names if (root / name).is_symlink()}
    assert steps == {
        "checkpoint-epoch1-step100": 100,
        "checkpoint-epoch2-step200": 200,
        "checkpoint-epoch3-step300": 300,
        "best_checkpoint": 200,
        "checkpoint_latest.pt": 300,
    }


def step_of(link: Path) -> int:
    """The step of the checkpoint that a link leads to; fails where it leads nowhere."""
    assert not os.path.isabs(os.readlink(link))
    step: int = json.loads((link / "manifest.json").read_text())["step"]
    return step


def test_b10_links_go_with_their_checkpoints_and_none_dangles(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with (
        Run.open(root, compat_names=NAMES, logs=False) as run,
        AsyncCheckpointer(run, model=nn.Linear(2, 2), keep=RetentionPolicy(last=2), monitor=("loss", "min")) as ckpt,
    ):
        for step, loss in enumerate((0.1, 0.5, 0.4, 0.3), start=1):
            ckpt.save(step, metrics={"loss": loss}).wait()
        ckpt.wait()
    links = {path.name: step_of(path) for path in root.iterdir() if path.is_symlink()}
    assert links == {
        "checkpoint-epoch0-step1": 1,  # the best
        "checkpoint-epoch0-step3": 3,
        "checkpoint-epoch0-step4": 4,
        "best_checkpoint": 1,
        "checkpoint_latest.pt": 4,
    }
    assert (root / "data").is_dir()
    (root.rename(tmp_path / "moved"))
    assert step_of(tmp_path / "moved" / "best_checkpoint") == 1


def test_b10_links_follow_late_metrics_a_prune_on_demand_and_what_a_kill_has_left(tmp_path: Path) -> None:
    root = tmp_path / "run"

    def links() -> dict[str, int]:
        return {path.name: step_of(path) for path in root.iterdir() if path.is_symlink()}

    def opened(run: Run, **given: Any) -> AsyncCheckpointer:
        return AsyncCheckpointer(run, model=nn.Linear(2, 2), monitor=("loss", "min"), **given)

    with Run.open(root, compat_names=NAMES, logs=False) as run, opened(run) as ckpt:
        for step, loss in ((1, 0.1), (2, 0.5), (3, 0.4)):
            ckpt.save(step, metrics={"loss": loss}).wait()
        ckpt.record(2, {"loss": 0.0}).result(60)
    steps = {"checkpoint-epoch0-step1": 1, "checkpoint-epoch0-step2": 2, "checkpoint-epoch0-step3": 3}
    assert links() == {**steps, "best_checkpoint": 2, "checkpoint_latest.pt": 3}
    (root / "best_checkpoint").unlink()
    (root / "checkpoint-epoch0-step9").symlink_to("data/gone")
    with (
        Run.open(root, mode="resume", compat_names=NAMES, logs=False) as run,
        opened(run, keep=RetentionPolicy(last=1)) as ckpt,
    ):
        ckpt.resume()
        run.save_results({})  # waits for its turn behind the links
        assert links() == {**steps, "best_checkpoint": 2, "checkpoint_latest.pt": 3}
        ckpt.prune()
    del steps["checkpoint-epoch0-step1"]
    assert links() == {**steps, "best_checkpoint": 2, "checkpoint_latest.pt": 3}


def test_b10_a_link_that_moves_leads_somewhere_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original took it away, and then made it anew (R15)."""
    link, torn = tmp_path / "run/best_checkpoint", list[str]()

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            was_there = link.exists()
            found = real(*arguments, **named)
            if was_there and not link.exists():
                torn.append(f"{name}{arguments}")
            return found

        monkeypatch.setattr(os, name, call)

    for name in ("unlink", "remove", "symlink", "rename", "replace"):
        watched(name)
    with (
        Run.open(tmp_path / "run", compat_names=["best_checkpoint"], logs=False) as run,
        AsyncCheckpointer(run, model=nn.Linear(2, 2), monitor=("loss", "min"), executor="thread") as ckpt,
    ):
        for step, loss in ((1, 0.9), (2, 0.8), (3, 0.7)):
            ckpt.save(step, metrics={"loss": loss}).wait()
    assert step_of(link) == 3
    assert torn == []


def test_b10_a_file_that_has_a_links_name_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "best_checkpoint").write_text("mine")
    with (
        Run.open(root, compat_names=NAMES, logs=False) as run,
        AsyncCheckpointer(run, model=nn.Linear(2, 2), monitor=("loss", "min")) as ckpt,
    ):
        ckpt.save(1, metrics={"loss": 1.0}).wait()
    assert (root / "best_checkpoint").read_text() == "mine"
    assert "best_checkpoint is there, and is no link" in caplog.text


def test_b10_a_store_without_links_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with Run.open("memory://b10-links", compat_names=NAMES, logs=False) as run:
        assert "links, which memory://b10-links cannot have" in caplog.text
        with AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
            ckpt.save(1).wait()


@pytest.mark.parametrize("name", ["a/best", "../best", "best-{loss}", "latest", "mine", "Best"])
def test_b10_names_that_cannot_be_links_are_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises((ValueError, OSError)):
        Run.open(tmp_path / "run", compat_names=[name])
    assert not (tmp_path / "run").exists()


# -- B11 ---------------------------------------------------------------------------------------------------


def test_b11_hyperparameters_are_what_trains(somewhere: Place) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    config = {
        "training": {"num_epochs": 3, "batch_size": 8, "max_grad_norm": 1.0},
        "optimizer": {"name": "sgd", "lr": 9.0},
        "seed": 7,
    }
    run = somewhere.open(config=config)
    assert said(somewhere, "hyperparameters.json")["lr"] == 9.0  # all that is known so far
    with AsyncCheckpointer(run, model=model, optimizer=optimizer, scheduler=scheduler):
        pass
    assert said(somewhere, "hyperparameters.json") == {
        "epochs": 3,
        "batch_size": 8,
        "gradient_clipping": 1.0,
        "seed": 7,
        "optimizer": "AdamW",
        "lr": 1e-3,  # not the 5e-4 where the scheduler is by now
        "weight_decay": 0.1,
        "scheduler": "LambdaLR",
    }
    assert (somewhere.read("hyperparameters.json") or b"").startswith(b'{\n  "')


def test_b11_what_is_said_later_of_the_data_loses_nothing_of_what_trains(folder: Place) -> None:
    model = nn.Linear(2, 2)
    run = folder.open(config={"epochs": 3, "lr": 9.0})
    with AsyncCheckpointer(run, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)):
        before = said(folder, "hyperparameters.json")
        assert before["lr"] == 0.1
        run.describe(dataset={"name": "tinystories"})
        run.describe(model=model)
        assert said(folder, "hyperparameters.json") == before


def test_b11_several_optimizers_are_listed(folder: Place) -> None:
    model = nn.Linear(2, 2)
    optimizers = {
        "one": torch.optim.SGD([model.weight], lr=0.1),
        "two": torch.optim.Adam([model.bias], lr=torch.tensor(0.5)),
    }
    with folder.open() as run, AsyncCheckpointer(run, model=model, optimizer=optimizers):
        pass
    assert said(folder, "hyperparameters.json") == {
        "optimizer": ["SGD", "Adam"],
        "lr": [0.1, 0.5],
        "weight_decay": [0, 0],
    }


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, {}),
        ({"training": {"epochs": 2}, "epochs": 9, "seed": None}, {"epochs": 2}),
        (
            {"num_epochs": 1, "lr": 0.5, "optimizer": "adam", "scheduler": "linear"},
            {"epochs": 1, "lr": 0.5, "optimizer": "adam", "scheduler": "linear"},
        ),
        (
            {
                "trainer": {
                    "max_epochs": 3,
                    "train_batch_size": 8,
                    "accumulate_grad_batches": 2,
                    "precision": "bf16",
                    "max_steps": 7,
                    "max_grad_norm": 1.0,
                    "seed": 0,
                },
                "optimizer": {"type": "adamw", "learning_rate": 0.1, "weight_decay": 0.01},
                "scheduler": {"name": "cosine", "num_warmup_steps": 10},
            },
            {
                "epochs": 3,
                "max_steps": 7,
                "batch_size": 8,
                "gradient_accumulation_steps": 2,
                "seed": 0,
                "gradient_clipping": 1.0,
                "mixed_precision": "bf16",
                "lr": 0.1,
                "weight_decay": 0.01,
                "optimizer": "adamw",
                "scheduler": "cosine",
                "warmup_steps": 10,
            },
        ),
    ],
)
def test_b11_a_configuration_says_them_under_the_names_of_other_systems_too(
    config: dict[str, Any], found: dict[str, Any]
) -> None:
    assert hyperparameters(config) == found


# -- B12 ---------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(1000, 4), nn.Linear(4, 1000, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_b12_the_summary_has_the_model_and_its_counts(somewhere: Place) -> None:
    model = Tied()
    with somewhere.open() as run, AsyncCheckpointer(run, model=model):
        pass
    text = (somewhere.read("model_summary.txt") or b"").decode()
    assert text.startswith(str(model))
    assert "Total parameters: 4,020\n" in text  # the tied weight once
    assert "Trainable parameters: 4,000\n" in text


def test_b12_wrapped_and_guarded_models_are_shown_as_they_are(folder: Place) -> None:
    model = nn.Linear(2, 2)
    with folder.open() as run, AsyncCheckpointer(run, model=[nn.DataParallel(model), guarded(nn.Linear(3, 3))]):
        pass
    text = (folder.read("model_summary.txt") or b"").decode()
    assert "=== 0 ===\n\nLinear(in_features=2" in text
    assert "=== 1 ===\n\nLinear(in_features=3" in text
    assert "DataParallel" not in text


def test_b12_what_has_no_shape_yet_is_not_counted_and_that_is_said(folder: Place) -> None:
    run = folder.open()
    run.describe(model=nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3)))
    text = (folder.read("model_summary.txt") or b"").decode()
    assert "Total parameters: 6\n" in text
    assert "Not counted: 2 tensors" in text


def test_b12_a_model_that_cannot_be_printed_stops_nothing(folder: Place, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(nn.Linear):
        def extra_repr(self) -> str:
            raise RuntimeError("not now")

    with folder.open() as run, AsyncCheckpointer(run, model=Odd(2, 2)) as ckpt:
        ckpt.save(1).wait()
    assert "what is trained could not be written" in caplog.text


# -- D27 ---------------------------------------------------------------------------------------------------


def test_d27_results_hold_what_was_given_and_nothing_else(somewhere: Place) -> None:
    run = somewhere.open()
    run.save_results({"val_loss": torch.tensor(0.5), "accuracy": np.float32(0.25), "steps": 7, "nan": float("nan")})
    found = load_results(somewhere.root, somewhere.options)
    assert set(found) == {"run_id", "timestamp", "final_metrics"}
    assert found["run_id"] == run.id
    assert datetime.fromisoformat(found["timestamp"]).tzinfo is not None
    assert found["final_metrics"] == {"val_loss": 0.5, "accuracy": 0.25, "steps": 7, "nan": "NaN"}
    run.save_results({}, best_checkpoint="00000002", generation_samples=["once", "upon"])
    found = load_results(somewhere.root, somewhere.options)
    assert (found["best_checkpoint"], found["generation_samples"]) == ("00000002", ["once", "upon"])


def test_d27_before_there_are_results_there_are_none(somewhere: Place) -> None:
    assert load_results(somewhere.root, somewhere.options) == {}


# -- B8 ----------------------------------------------------------------------------------------------------


class FakeWandbRun(SimpleNamespace):
    """What W&B's run says of itself."""


def wandb_run(number: int = 1, **more: Any) -> FakeWandbRun:
    return FakeWandbRun(
        id=f"id{number}", name=f"name{number}", url=f"https://wandb.ai/e/p/id{number}", project="p", entity="e", **more
    )


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """W&B as a training may have imported it."""
    module = SimpleNamespace(run=None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_b8_the_run_under_way_is_written_down(somewhere: Place, wandb: SimpleNamespace) -> None:
    wandb.run = wandb_run()
    with somewhere.open() as run, AsyncCheckpointer(run, model=nn.Linear(2, 2)):
        found = said(somewhere, "wandb_info.json")
    assert datetime.fromisoformat(found.pop("timestamp")).tzinfo is not None
    assert found == {
        "run_id": "id1",
        "run_name": "name1",
        "run_url": "https://wandb.ai/e/p/id1",
        "project": "p",
        "entity": "e",
    }


def test_b8_a_run_that_began_later_is_written_down_at_the_end(folder: Place, wandb: SimpleNamespace) -> None:
    with folder.open():
        wandb.run = wandb_run()
    assert said(folder, "wandb_info.json")["run_id"] == "id1"


def test_b8_a_training_that_never_closes_its_run_has_it_written_down_all_the_same(train: Train, tmp_path: Path) -> None:
    train(
        "from types import SimpleNamespace\nRun.open('run')\n"
        "sys.modules['wandb'] = SimpleNamespace(run=SimpleNamespace(id='late', name='n'))\n"
    )
    assert json.loads((tmp_path / "run/wandb_info.json").read_text())["run_id"] == "late"


def test_b8_without_wandb_there_is_no_file_and_no_error(
    folder: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with folder.open() as run:
        assert not run.save_wandb_info()
    assert "wandb" not in sys.modules  # nor was it imported
    assert "wandb_info.json" not in folder.names()
    assert not caplog.records


def test_b8_offline_there_is_no_address(folder: Place) -> None:
    with folder.open() as run:
        assert run.save_wandb_info(FakeWandbRun(id="x", name="n", url=None, project="p", entity=""))
    found = said(folder, "wandb_info.json")
    assert (found["run_id"], found["run_url"], found["entity"], found["project"]) == ("x", None, None, "p")


def test_b8_an_accelerators_tracker_is_found(folder: Place) -> None:
    tracker = SimpleNamespace(name="wandb", tracker=wandb_run(2), run=wandb_run(2))
    accelerator = SimpleNamespace(trackers=[SimpleNamespace(name="tensorboard", tracker=object()), tracker])
    with folder.open() as run:
        assert run.save_wandb_info(accelerator)
        assert said(folder, "wandb_info.json")["run_id"] == "id2"
        assert not run.save_wandb_info(SimpleNamespace(trackers=[]))
        assert run.save_wandb_info(tracker)


def test_b8_what_fails_is_a_warning(folder: Place, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(FakeWandbRun):
        @property
        def entity(self) -> str:
            raise RuntimeError("no network")

    with folder.open() as run:
        for _ in range(2):
            assert run.save_wandb_info(Failing(id="x", name="n", url="u", project="p"))
    assert said(folder, "wandb_info.json")["entity"] is None
    assert caplog.text.count("does not say the entity") == 1


def test_b8_a_run_that_does_not_say_its_id_is_none_and_a_damaged_file_is_written_anew(
    folder: Place, caplog: pytest.LogCaptureFixture
) -> None:
    class Nameless(FakeWandbRun):
        @property
        def id(self) -> str:
            raise RuntimeError("it has not begun")

    with folder.open() as run:
        assert not run.save_wandb_info(Nameless(name="n"))
        assert "wandb_info.json" not in folder.names()
        for damaged in (b'{"run_id": "i', b"[1]"):
            folder.write("wandb_info.json", damaged)
            assert run.save_wandb_info(wandb_run())
            assert said(folder, "wandb_info.json")["run_id"] == "id1"
    assert caplog.text.count("wandb_info.json was damaged, and is written anew") == 1


def test_b8_earlier_runs_are_kept_on_resume(somewhere: Place) -> None:
    for number in (1, 1, 2, 3):
        with somewhere.open(mode="auto") as run:
            run.save_wandb_info(wandb_run(number))
    found = said(somewhere, "wandb_info.json")
    assert found["run_id"] == "id3"
    assert [earlier["run_id"] for earlier in found["earlier"]] == ["id1", "id2"]
    assert all("earlier" not in earlier for earlier in found["earlier"])


def test_b8_a_file_that_cannot_be_written_stops_nothing(
    folder: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(*arguments: object, **named: object) -> None:
        raise StorageDenied(28, "no space left")

    with folder.open() as run:
        monkeypatch.setattr(LocalStorage, "put", full)
        assert not run.save_wandb_info(wandb_run())
        run.describe(model=nn.Linear(2, 2))
    assert caplog.text.count("no space left") == 2
    assert "wandb_info.json could not be written" in caplog.text


def _describes(root: Path) -> tuple[bool, list[str]]:
    """Each rank has a W&B run and an optimizer of its own; what it writes into the run's folder."""
    rank, written = torch.distributed.get_rank(), list[str]()
    sys.modules["wandb"] = SimpleNamespace(run=wandb_run(rank))
    put = LocalStorage.put

    async def noted(self: LocalStorage, key: str, *arguments: Any, **named: Any) -> Any:
        written.append(key)
        return await put(self, key, *arguments, **named)

    LocalStorage.put = noted
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=[0.5, 0.25][rank])
    with Run.open(root, config={"epochs": 3 + rank}) as run:
        with AsyncCheckpointer(run, model=model, optimizer=optimizer, executor="thread") as ckpt:
            ckpt.save(1).wait()
        said = run.save_wandb_info()
        run.describe(model=model)
        run.save_results({"rank": rank})
    return said, [key for key in written if not key.startswith(("data/", "commits/"))]


@pytest.mark.ranks
def test_b8_b11_of_several_ranks_the_first_alone_writes_the_run_down(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (first, written), (second, others) = run_ranks(_describes, 2, root)
    assert (first, second) == (True, False)
    assert {"wandb_info.json", "hyperparameters.json", "model_summary.txt", "results.json", "config.json"} <= {*written}
    assert others == []
    assert json.loads((root / "wandb_info.json").read_text())["run_id"] == "id0"
    assert "earlier" not in json.loads((root / "wandb_info.json").read_text())
    assert json.loads((root / "hyperparameters.json").read_text()) == {
        "epochs": 3,
        "optimizer": "SGD",
        "lr": 0.5,
        "weight_decay": 0,
    }
    assert json.loads((root / "results.json").read_text())["final_metrics"] == {"rank": 0}


ACCELERATED = """
from pathlib import Path
import torch
from accelerate import Accelerator
from asyncckpt import AsyncCheckpointer
accelerator = Accelerator(log_with="wandb", cpu=True)
accelerator.init_trackers("of-accelerate", config={"lr": 0.1})
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = accelerator.prepare(model, optimizer)
for root, told in (("given", True), ("found", False)):
    with Run.open(root, logs=False) as run, AsyncCheckpointer(run, model=model, optimizer=optimizer) as ckpt:
        assert not told or run.save_wandb_info(accelerator)
        ckpt.save(1).wait()
accelerator.wait_for_everyone()
print(accelerator.get_tracker("wandb", unwrap=True).id)
accelerator.end_training()
"""


def test_b8_the_run_of_a_real_accelerator_is_written_down(train: Train, tmp_path: Path) -> None:
    """Whether it is given to the run, or W&B's run that it began is found."""
    pytest.importorskip("accelerate")
    ended = train(ACCELERATED, env={"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"})
    wandb_id = ended.stdout.split()[-1]
    for root in ("given", "found"):
        found = json.loads((tmp_path / root / "wandb_info.json").read_text())
        assert (found["run_id"], found["project"]) == (wandb_id, "of-accelerate")
        assert found["run_url"] is None, "offline there is none"
        assert json.loads((tmp_path / root / "hyperparameters.json").read_text())["lr"] == 0.1
        assert load(tmp_path / root).state["model"].keys() == {"weight", "bias"}


def test_b15_what_a_run_says_of_itself_is_written_at_its_start_and_by_no_step(
    folder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "c.yml"
    source.write_text("epochs: 3\n")
    written, read = list[str](), list[Path]()
    put, read_bytes = LocalStorage.put, Path.read_bytes

    async def noted(self: LocalStorage, key: str, *arguments: Any, **named: Any) -> Any:
        written.append(key)
        return await put(self, key, *arguments, **named)

    monkeypatch.setattr(LocalStorage, "put", noted)
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), read_bytes(path))[1])
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        folder.open(config=source) as run,
        AsyncCheckpointer(
            run, model=model, optimizer=optimizer, save=SavePolicy(every_steps=2), executor="thread"
        ) as ckpt,
    ):
        first = {*written}
        assert {"identity.json", "config.yml", "config.json", "hyperparameters.json", "model_summary.txt"} <= first
        written.clear()
        for step in range(1, 7):
            ckpt.step(step, metrics={"loss": 1.0})
        ckpt.wait()
        assert any(key.startswith("commits/") for key in written)
        assert [key for key in written if guard.OWN.fullmatch(key) or key in ("identity.json", "readme.md")] == []
    assert read.count(source) == 1


def test_b14_a_run_is_closed_twice_without_harm(
    folder: Place, wandb: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.run = wandb_run()
    run = folder.open(logs=True)
    for _ in range(2):
        run.close()
    assert not caplog.records
