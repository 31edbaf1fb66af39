"""What ``import`` refuses: what would run when it is read, what is damaged, and what is none of what it knows."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed import checkpoint

from .conftest import Run, names

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.mark,))


class Settings:
    """Harmless, and still code of somebody's."""


def pickled(path: Path, mark: Path) -> None:
    torch.save({"model": nn.Linear(1, 1).state_dict(), "x": Evil(mark)}, path / "src")


def bare_pickle(path: Path, mark: Path) -> None:
    (path / "src").write_bytes(pickle.dumps(Evil(mark)))


def in_lightning(path: Path, mark: Path) -> None:
    found = {"pytorch-lightning_version": "2.6.6", "state_dict": {}, "hyper_parameters": {"x": Evil(mark)}}
    torch.save(found, path / "src")


def in_metadata(path: Path, mark: Path) -> None:
    checkpoint.save({"model": {"w": torch.ones(2)}}, checkpoint_id=path / "src", no_dist=True)
    (path / "src" / ".metadata").write_bytes(pickle.dumps(Evil(mark)))


def in_dcp_value(path: Path, mark: Path) -> None:
    checkpoint.save({"model": {"w": torch.ones(2)}, "x": Evil(mark)}, checkpoint_id=path / "src", no_dist=True)


def in_optimizer(path: Path, mark: Path) -> None:
    (path / "src").mkdir()
    save_file({"w": torch.ones(2)}, path / "src" / "model.safetensors")
    torch.save(Evil(mark), path / "src" / "optimizer.pt")


def in_bin(path: Path, mark: Path) -> None:
    (path / "src").mkdir()
    torch.save(Evil(mark), path / "src" / "pytorch_model.bin")


@pytest.mark.parametrize("write", [pickled, bare_pickle, in_lightning, in_metadata, in_dcp_value, in_optimizer, in_bin])
def test_nothing_in_a_source_is_run(run: Run, tmp_path: Path, write: Callable[[Path, Path], None]) -> None:
    write(tmp_path, tmp_path / "mark")
    done = run("import", tmp_path / "src", tmp_path / "run", code=4)
    assert write is bare_pickle or f"{os.mkdir.__module__}.mkdir" in done.stderr
    assert "weights_only=False" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert names(tmp_path) == ["src"]


def test_the_class_that_is_refused_is_named(run: Run, tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "args": Settings()}, tmp_path / "x.pt")
    done = run("import", tmp_path / "x.pt", tmp_path / "run", code=4)
    assert f"holds a {__name__}.Settings, and to read that would run code" in done.stderr


def test_metadata_that_name_a_file_elsewhere_are_damaged(run: Run, tmp_path: Path) -> None:
    torch.save(torch.zeros(2), tmp_path / "secret")
    checkpoint.save({"model": {"w": torch.ones(2)}}, checkpoint_id=tmp_path / "src", no_dist=True)
    metadata = tmp_path / "src" / ".metadata"
    found = checkpoint.FileSystemReader(tmp_path / "src").read_metadata()
    for info in found.storage_data.values():
        info.relative_path = "../secret"
    metadata.write_bytes(pickle.dumps(found))
    assert "names ../secret" in run("import", tmp_path / "src", tmp_path / "run", code=1).stderr


# -- damage --------------------------------------------------------------------------------------------------------


def weights(path: Path) -> Path:
    save_file({"w": torch.arange(6.0)}, path)
    return path


def cut(path: Path, nbytes: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-nbytes])


def header(path: Path, fields: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(fields).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_file_of_safetensors_that_was_cut_is_damaged(run: Run, tmp_path: Path) -> None:
    cut(weights(tmp_path / "x.safetensors"))
    assert "not a sound safetensors file" in run("import", tmp_path / "x.safetensors", tmp_path / "run", code=1).stderr
    assert names(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}, 1, "has not as many bytes"),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, 1, "has the shape"),
        ({"w": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, 4, "of dtype F4"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, 1, "announced"),
        ({"w": 5}, 1, "not a sound safetensors file"),
    ],
)
def test_a_header_that_lies_is_met_by_name(
    run: Run, tmp_path: Path, fields: dict[str, Any], code: int, said: str
) -> None:
    header(tmp_path / "x.safetensors", fields, bytes(4))
    assert said in run("import", tmp_path / "x.safetensors", tmp_path / "run", code=code).stderr
    assert names(tmp_path) == ["x.safetensors"]


def test_a_torch_file_that_was_cut_is_damaged(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(9)}, tmp_path / "x.pt")
    cut(tmp_path / "x.pt", 50)
    assert "no sound file of torch.save" in run("import", tmp_path / "x.pt", tmp_path / "run", code=1).stderr
    assert names(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("what", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_folder_of_dcp_that_is_not_whole_is_damaged(run: Run, tmp_path: Path, what: str, how: str) -> None:
    checkpoint.save({"model": {"w": torch.ones(2000)}}, checkpoint_id=tmp_path / "src", no_dist=True)
    path = tmp_path / "src" / what
    if how == "cut":
        cut(path, path.stat().st_size // 2)
    else:
        path.unlink()
    kind = ["--from", "dcp"]
    assert "src" in run("import", tmp_path / "src", tmp_path / "run", *kind, code=1).stderr
    assert names(tmp_path) == ["src"]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"w": "model-1.safetensors"}}, "is missing"),
        ({"weight_map": {"w": "../x.safetensors"}}, "files beside it"),
        ({"weight_map": {}}, "files beside it"),
        ([], "no JSON object"),
    ],
)
def test_an_index_that_does_not_fit_its_folder_is_damage(run: Run, tmp_path: Path, index: object, said: str) -> None:
    weights(tmp_path / "x.safetensors")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert said in run("import", tmp_path / "src", tmp_path / "run", "--from", "hf", code=1).stderr


# -- what it does not know -----------------------------------------------------------------------------------------


def nothing(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("a text, and a long one")


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x", "y")


def number(path: Path) -> None:
    torch.save(5, path)


def no_model(path: Path) -> None:
    torch.save({"loss": 0.5, "lr": 0.1}, path)


def sparse(path: Path) -> None:
    torch.save({"model": {"w": torch.eye(3).to_sparse()}}, path)


def script(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.ones(2)}}, buffer)
    path.write_bytes(buffer.getvalue()[:40])


@pytest.mark.parametrize(
    ("write", "code", "said"),
    [
        (nothing, 4, "name the file or the folder that does"),
        (text, 4, "neither a file of torch.save nor one of safetensors"),
        (archive, 1, "no sound file of torch.save"),
        (number, 4, "holds a int"),
        (no_model, 4, "of its keys (loss, lr) none is model"),
        (sparse, 4, "model.w: torch.sparse_coo tensors cannot be held"),
        (script, 1, "no sound file of torch.save"),
    ],
)
def test_what_cannot_be_imported_says_why(
    run: Run, tmp_path: Path, write: Callable[[Path], None], code: int, said: str
) -> None:
    write(tmp_path / "src")
    assert said in run("import", tmp_path / "src", tmp_path / "run", code=code).stderr
    assert names(tmp_path) == ["src"]


def test_a_file_is_no_folder(run: Run, tmp_path: Path) -> None:
    weights(tmp_path / "x.safetensors")
    for kind, path in (("hf", tmp_path / "x.safetensors"), ("safetensors", tmp_path)):
        assert "see --from" in run("import", path, tmp_path / "run", "--from", kind, code=4).stderr
    assert "no state_dict" in run("import", _state(tmp_path), tmp_path / "run", "--from", "lightning", code=4).stderr


def _state(tmp_path: Path) -> Path:
    torch.save({"model": {}}, tmp_path / "x.pt")
    return tmp_path / "x.pt"
