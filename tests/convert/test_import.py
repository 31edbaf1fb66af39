"""``import``: what torch, DCP, Lightning and Hugging Face's trainer have saved goes on as a training of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.distributed import checkpoint

import asyncckpt
from asyncckpt import AsyncCheckpointer

from .conftest import Box, Run, Tied, assert_same, fresh, goes_on, names, saved, step

Write = Callable[[Path, nn.Module, torch.optim.Optimizer], object]

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


def of_torch(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.save(
        {
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "epoch": 2,
            "global_step": 3,
            "config": {"lr": 0.1},
        },
        path,
    )


def of_old_torch(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    found = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3, "epoch": 2}
    torch.save(found, path, _use_new_zipfile_serialization=False)


def of_dcp(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    found = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": torch.tensor(3), "epoch": 2}
    checkpoint.save(found, checkpoint_id=path, no_dist=True)


def of_lightning(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As Lightning 2.6 writes it."""
    torch.save(
        {
            "epoch": 2,
            "global_step": 3,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": model.state_dict(),
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"completed": 2}}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {"width": 4},
        },
        path,
    )


def of_hf_trainer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    path.mkdir()
    save_model(model, str(path / "model.safetensors"), {"format": "pt"})
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    (path / "config.json").write_text('{"model_type": "tied"}')
    (path / "trainer_state.json").write_text('{"global_step": 3, "epoch": 2.0, "log_history": [{"loss": 0.5}]}')
    (path / "rng_state.pth").write_bytes(b"")


def of_hf_bin(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    path.mkdir()
    state = model.state_dict()
    files = {"pytorch_model-00001-of-00002.bin": ["embedding.weight", "a_head.weight"]}
    files["pytorch_model-00002-of-00002.bin"] = [name for name in state if name.startswith("body")]
    for file, inside in files.items():
        torch.save({name: state[name] for name in inside}, path / file)
    index = {"weight_map": {name: file for file, inside in files.items() for name in inside}}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    (path / "trainer_state.json").write_text('{"global_step": 3, "epoch": 2.0}')


@pytest.mark.parametrize(
    ("write", "kind", "name"),
    [
        (of_torch, "torch", "x.pt"),
        (of_old_torch, "torch", "x.pth"),
        (of_dcp, "dcp", "x"),
        (of_lightning, "lightning", "last.ckpt"),
        (of_hf_trainer, "hf", "checkpoint-3"),
        (of_hf_bin, "hf", "checkpoint-3"),
    ],
)
def test_a_training_goes_on_to_the_last_bit(
    document: Callable[..., dict[str, Any]], tmp_path: Path, write: Write, kind: str, name: str
) -> None:
    torch.manual_seed(0)
    model, optimizer = fresh()
    for _ in range(3):
        step(model, optimizer)
    write(tmp_path / name, model, optimizer)
    found = document("import", tmp_path / name, tmp_path / "run")
    assert (found["from"], found["step"], found["epoch"], found["id"]) == (kind, 3, 2, "00000001")
    info = asyncckpt.load(tmp_path / "run").info
    assert (info.step, info.epoch, info.message) == (3, 2, f"imported from {name}")
    goes_on(tmp_path / "run", model, optimizer, 3)


@pytest.mark.parametrize("is_of_accelerate", [True, False])
def test_of_accelerates_folder_the_optimizer_is_taken_and_of_fsdps_it_is_not(
    run: Run, tmp_path: Path, is_of_accelerate: bool
) -> None:
    torch.manual_seed(0)
    model, optimizer = fresh()
    for _ in range(3):
        step(model, optimizer)
    folder = tmp_path / "state"
    folder.mkdir()
    save_model(model, str(folder / "model.safetensors"), {"format": "pt"})
    torch.save(optimizer.state_dict(), folder / "optimizer.bin")
    left = ["optimizer_1.bin", "sampler.bin", *(["random_states_0.pkl"] if is_of_accelerate else [])]
    for name in left:
        (folder / name).write_bytes(b"")
    done = run("import", folder, tmp_path / "run", "--step", 3)
    said = {
        line.partition(" is not taken over")[0].split()[-1] for line in done.stderr.splitlines() if "not taken" in line
    }
    assert said == {*left, *([] if is_of_accelerate else ["optimizer.bin"])}
    if is_of_accelerate:
        goes_on(tmp_path / "run", model, optimizer, 3)
    else:
        assert "optimizer" not in asyncckpt.load(tmp_path / "run").state


def test_what_is_no_part_of_a_training_is_kept_among_the_extras(run: Run, tmp_path: Path) -> None:
    model, optimizer = fresh()
    step(model, optimizer)
    of_torch(tmp_path / "x.pt", model, optimizer)
    of_lightning(tmp_path / "x.ckpt", model, optimizer)
    of_hf_trainer(tmp_path / "x", model, optimizer)
    found = []
    for number, source in enumerate(("x.pt", "x.ckpt", "x")):
        done = run("import", tmp_path / source, tmp_path / str(number))
        found.append(asyncckpt.load(tmp_path / str(number)).state["extra"])
    assert found[0] == {"config": {"lr": 0.1}}
    assert found[1]["lightning"]["hyper_parameters"] == {"width": 4}
    assert "ModelCheckpoint{'monitor': None}" in found[1]["lightning"]["callbacks"]
    assert found[2]["huggingface"]["trainer_state.json"]["log_history"] == [{"loss": 0.5}]
    assert "rng_state.pth is not taken over" in done.stderr


def test_several_optimizers_of_lightning_are_a_list(run: Run, tmp_path: Path) -> None:
    models = [nn.Linear(2, 2), nn.Linear(2, 2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1) for optimizer in optimizers]
    both = nn.ModuleList(models)
    torch.save(
        {
            "pytorch-lightning_version": "2.6.6",
            "state_dict": both.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in optimizers],
            "lr_schedulers": [scheduler.state_dict() for scheduler in schedulers],
            "global_step": 5,
            "epoch": 0,
        },
        tmp_path / "x.ckpt",
    )
    run("import", tmp_path / "x.ckpt", tmp_path / "run")
    with AsyncCheckpointer(tmp_path / "run", model=both, optimizer=optimizers, scheduler=schedulers) as ckpt:
        state = ckpt.resume()
    assert state is not None
    assert state.step == 5


def test_a_state_dict_alone_is_a_model(run: Run, tmp_path: Path) -> None:
    model = Tied()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    done = run("import", tmp_path / "x.pt", tmp_path / "run", "--step", "12")
    assert done.stdout.startswith("00000001 (step 12): 4 tensors")
    assert done.stderr == ""
    other = Tied()
    with AsyncCheckpointer(tmp_path / "run", model=other) as ckpt:
        state = ckpt.resume()
    assert state is not None
    assert state.step == 12
    assert_same(other.state_dict(), model.state_dict())


def test_json_says_what_was_made_and_a_step_that_is_given_takes_the_place_of_the_one_in_src(
    run: Run, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    saved(tmp_path / "run", Box({"w": torch.ones(2)}))
    src = tmp_path / "x.safetensors"
    run("export", tmp_path / "run", src, "--to", "safetensors")
    found = document("import", src, tmp_path / "again", "--step", "12")
    assert found.pop("bytes") == 8
    assert found == {
        "schema": 1,
        "root": str(tmp_path / "again"),
        "id": "00000001",
        "step": 12,
        "epoch": 2,
        "metrics": {"loss": 0.5},
        "from": "safetensors",
        "src": str(src),
        "tensors": 1,
        "notes": [],
    }
    assert asyncckpt.load(tmp_path / "again").info.step == 12
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    assert document("import", tmp_path / "x.pt", tmp_path / "third")["notes"] == [
        "SRC says no step: it is 0 (give another with --step)"
    ]
    assert "--step" in run("import", src, tmp_path / "fourth", "--step", "-1", code=2).stderr
    run("export", tmp_path / "run", tmp_path / "checkpoint-12", "--to", "hf")
    assert document("import", tmp_path / "checkpoint-12", tmp_path / "fifth")["step"] == 12, "as its name says"


def test_a_model_by_its_names_beside_other_parts_is_found(run: Run, tmp_path: Path) -> None:
    model, optimizer = fresh()
    step(model, optimizer)
    found = {**model.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint.save(found, checkpoint_id=tmp_path / "x", no_dist=True)
    done = run("import", tmp_path / "x", tmp_path / "run")
    assert "SRC says no step: it is 0" in done.stderr
    goes_on(tmp_path / "run", model, optimizer, 0)


def test_random_state_that_a_source_does_not_have_goes_on_as_it_is(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "x.pt")
    run("import", tmp_path / "x.pt", tmp_path / "run")
    with AsyncCheckpointer(tmp_path / "run", model=nn.Linear(1, 1)) as ckpt:
        torch.manual_seed(5)
        ckpt.resume()
        drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert [record.message for record in caplog.records if "random state" in record.message] == [
        "the checkpoint holds no random state: that of this process goes on as it is"
    ]


def test_a_file_of_safetensors_that_nobody_here_has_written(run: Run, tmp_path: Path) -> None:
    state = {"a.b": torch.arange(3, dtype=torch.bfloat16), "c": torch.tensor([1 + 2j]), "none": torch.empty(0, 2)}
    save_file(state, tmp_path / "x.safetensors", {"tied": "c", "note": "anything", "asyncckpt": "[1]"})
    run("import", tmp_path / "x.safetensors", tmp_path / "run")
    found = asyncckpt.load(tmp_path / "run").state["model"]
    assert_same(found, {**state, "tied": state["c"]})


def test_a_bucket_is_imported_to_and_exported_from(
    run: Run, tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncckpt.testing.s3server import KEY, SECRET

    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("ENDPOINT_URL_S3", s3.endpoint)):
        monkeypatch.setenv(f"AWS_{name}", value)
    root = f"s3://tests/{tmp_path.name}/run"
    model, optimizer = fresh()
    step(model, optimizer)
    of_torch(tmp_path / "x.pt", model, optimizer)
    run("import", tmp_path / "x.pt", root)
    assert "already" in run("import", tmp_path / "x.pt", root, code=2).stderr
    run("verify", root)
    for kind in ("safetensors", "torch", "dcp", "hf"):
        run("export", root, tmp_path / kind, "--to", kind)
        run("import", tmp_path / kind, tmp_path / f"from-{kind}")
        assert_same(asyncckpt.load(tmp_path / f"from-{kind}").state["model"], dict(model.state_dict()))
    goes_on(root, model, optimizer, 3)


# -- where it may not go -------------------------------------------------------------------------------------------


def test_a_root_that_holds_a_checkpoint_is_left_alone(run: Run, tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "x.pt")
    saved(tmp_path / "run", Box({"w": torch.ones(2)}))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    done = run("import", tmp_path / "x.pt", tmp_path / "run", code=2)
    assert "holds a checkpoint already: import into another root" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_training_that_has_taken_the_root_is_not_fenced(run: Run, tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "x.pt")
    with AsyncCheckpointer(tmp_path / "run", model=nn.Linear(1, 1), executor="thread") as ckpt:
        assert ckpt.resume() is None
        assert "a training may hold" in run("import", tmp_path / "x.pt", tmp_path / "run", code=2).stderr
        ckpt.save(1).wait()


def test_a_root_names_no_checkpoint_and_a_source_is_there(run: Run, tmp_path: Path) -> None:
    assert "leave out the @" in run("import", tmp_path, f"{tmp_path / 'run'}@latest", code=2).stderr
    assert "does not exist" in run("import", tmp_path / "no", tmp_path / "run", code=2).stderr
    assert names(tmp_path) == []
