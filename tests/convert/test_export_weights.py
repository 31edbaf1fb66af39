"""``export --to safetensors`` and ``--to hf``: what other tools read, from every kind of store, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model

import asyncckpt
from asyncckpt.cli import export as exporting
from asyncckpt.fetching.reading import spans
from asyncckpt.format.contents import EXTENT, Box, Contents, Extent, Pack, TensorEntry

from .conftest import Box as Saved
from .conftest import Run, Tied, assert_same, names, same, saved, zoo


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_one_file_holds_every_tensor_of_the_model_bit_by_bit(run: Run, tmp_path: Path, codec: str | None) -> None:
    state = zoo()
    saved(tmp_path / "run", Saved(state), codec=codec)
    done = run("export", tmp_path / "run", tmp_path / "model.safetensors", "--to", "safetensors")
    assert done.stdout.startswith("00000001 (step 7): ")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        f"safetensors has no name for {dtype}" for dtype in ("complex128", "float8_e4m3fnuz")
    ]
    found = load_file(tmp_path / "model.safetensors")
    assert same(torch.view_as_complex(found.pop("c128")), state.pop("c128"))
    assert same(found.pop("fnuz").view(torch.float8_e4m3fnuz), state.pop("fnuz"))
    assert_same(found, state)


@pytest.mark.parametrize("kind", ["safetensors", "hf"])
def test_what_was_exported_comes_back_bit_by_bit_and_shares_memory_as_before(
    run: Run, tmp_path: Path, kind: str
) -> None:
    state = zoo()
    saved(tmp_path / "run", Saved(state))
    run("export", tmp_path / "run", tmp_path / "out", "--to", kind)
    run("import", tmp_path / "out", tmp_path / "again")
    loaded = asyncckpt.load(tmp_path / "again")
    found = loaded.state["model"]
    assert_same(found, state)
    assert found["again"].data_ptr() == found["base"].data_ptr()
    assert (loaded.info.step, loaded.info.epoch, loaded.info.metrics) == (7, 2, {"loss": 0.5})
    assert run("verify", tmp_path / "again").exit_code == 0


def test_files_are_cut_where_one_would_be_larger_and_an_index_says_what_is_where(run: Run, tmp_path: Path) -> None:
    state = {f"layer.{number}": torch.full((25,), float(number)) for number in range(5)}
    saved(tmp_path / "run", Saved(state))
    run("export", tmp_path / "run", tmp_path / "out", "--to", "safetensors", "--max-shard-size", "0.2kB")
    files = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    assert names(tmp_path / "out") == [*files, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_bytes())
    assert index["metadata"] == {"total_size": 500}
    assert {name: file for file in files for name in load_file(tmp_path / "out" / file)} == index["weight_map"]
    run("import", tmp_path / "out", tmp_path / "again")
    assert_same(asyncckpt.load(tmp_path / "again").state["model"], state)


def test_of_hugging_face_files_are_cut_where_its_own_are_or_where_somebody_says(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "run", Saved({f"layer.{number}": torch.full((25,), float(number)) for number in range(5)}))
    assert exporting._MOST_HF == 50 * 10**9
    monkeypatch.setattr(exporting, "_MOST_HF", 200)
    for options, count in (([], 3), (["--max-shard-size", "400B"], 2), (["--max-shard-size", "1kB"], 1)):
        run("export", tmp_path / "run", tmp_path / "out", "--to", "hf", "--overwrite", *options)
        assert len(list((tmp_path / "out").glob("*.safetensors"))) == count
        assert (tmp_path / "out" / "model.safetensors.index.json").exists() == (count > 1)


def test_tied_weights_are_stored_once_under_the_name_that_the_model_has_first(run: Run, tmp_path: Path) -> None:
    model = Tied()
    saved(tmp_path / "run", model)
    run("export", tmp_path / "run", tmp_path / "out", "--to", "hf")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["body.bias", "body.weight", "embedding.weight"]
        assert file.metadata()["a_head.weight"] == "embedding.weight"
        assert file.metadata()["format"] == "pt"
    other = Tied()
    load_model(other, tmp_path / "out" / "model.safetensors")
    assert_same(other.state_dict(), model.state_dict())


def test_a_plain_file_has_tied_weights_under_both_names(run: Run, tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    saved(tmp_path / "run", model)
    run("export", tmp_path / "run", tmp_path / "x", "--to", "safetensors")
    other.load_state_dict(load_file(tmp_path / "x"))
    assert_same(other.state_dict(), model.state_dict())


def test_parts_are_named_from_where_they_begin(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "run", Saved({"w": torch.ones(2)}), extra={"ema": Saved({"w": torch.zeros(3)})})

    def exported(*parts: str) -> set[str]:
        only = [word for part in parts for word in ("--only", part)]
        run("export", tmp_path / "run", tmp_path / "x", "--to", "safetensors", "--overwrite", *only)
        return set(load_file(tmp_path / "x"))

    assert exported("extra.ema") == {"w"}
    assert exported("extra") == {"ema.w"}
    assert exported("model", "extra.ema") == {"model.w", "extra.ema.w"}


def test_names_that_are_the_same_when_joined_stay_apart(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "run", Saved({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}))
    run("export", tmp_path / "run", tmp_path / "x", "--to", "safetensors")
    assert {name: t.item() for name, t in load_file(tmp_path / "x").items()} == {"a.b": 1.0, "a.b#2": 0.0}


# -- config.json ---------------------------------------------------------------------------------------------------

CONFIG = {"model_type": "gpt2", "n_layer": 1, "resid_pdrop": 0.1, "vocab_size": 2**60, "architectures": ["X"]}


def config_of(run: Run, tmp_path: Path, *options: object) -> Any:
    run("export", tmp_path / "run", tmp_path / "out", "--to", "hf", "--overwrite", *options)
    path = tmp_path / "out" / "config.json"
    return json.loads(path.read_bytes()) if path.exists() else None


def test_without_a_config_it_is_said_that_transformers_needs_one(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "run", Saved({"w": torch.ones(2)}))
    done = run("export", tmp_path / "run", tmp_path / "out", "--to", "hf")
    assert "--config" in done.stderr
    assert names(tmp_path / "out") == ["model.safetensors"]


@pytest.mark.parametrize("written", [CONFIG, {"config": CONFIG}, {"config": {"lr": 1, "model": CONFIG}}])
def test_the_config_of_the_run_is_taken_where_it_is_one_of_hugging_face(
    run: Run, tmp_path: Path, written: dict[str, Any]
) -> None:
    saved(tmp_path / "run", Saved({"w": torch.ones(2)}))
    (tmp_path / "run" / "config.json").write_text(json.dumps(written))
    assert config_of(run, tmp_path) == CONFIG


def test_a_config_that_is_not_one_of_hugging_face_is_not_taken_for_one(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "run", Saved({"w": torch.ones(2)}))
    (tmp_path / "run" / "config.json").write_text(json.dumps({"config": {"lr": 1}}))
    assert config_of(run, tmp_path) is None
    (tmp_path / "mine.json").write_text(json.dumps(CONFIG))
    assert config_of(run, tmp_path, "--config", tmp_path / "mine.json") == CONFIG


def test_a_config_that_was_imported_goes_out_again(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "first", Saved({"w": torch.ones(2)}))
    (tmp_path / "mine.json").write_text(json.dumps(CONFIG))
    run("export", tmp_path / "first", tmp_path / "hf", "--to", "hf", "--config", tmp_path / "mine.json")
    run("import", tmp_path / "hf", tmp_path / "run")
    assert asyncckpt.load(tmp_path / "run").state["extra"]["huggingface"]["config.json"] == CONFIG
    assert config_of(run, tmp_path) == CONFIG


# -- what is there already, and what goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "torch", "hf", "dcp"])
def test_what_is_there_is_left_as_it_is_unless_it_is_to_be_replaced(run: Run, tmp_path: Path, kind: str) -> None:
    saved(tmp_path / "one", Saved({"w": torch.ones(2)}))
    saved(tmp_path / "two", Saved({"w": torch.zeros(2)}))
    run("export", tmp_path / "one", tmp_path / "out", "--to", kind)
    assert "is there already" in run("export", tmp_path / "two", tmp_path / "out", "--to", kind, code=2).stderr
    run("import", tmp_path / "out", tmp_path / "before")
    assert asyncckpt.load(tmp_path / "before").state["model"]["w"].tolist() == [1, 1]
    run("export", tmp_path / "two", tmp_path / "out", "--to", kind, "--overwrite")
    run("import", tmp_path / "out", tmp_path / "after")
    assert asyncckpt.load(tmp_path / "after").state["model"]["w"].tolist() == [0, 0]
    assert names(tmp_path) == ["after", "before", "one", "out", "two"]


def test_a_folder_that_no_export_has_made_is_never_replaced(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "run", Saved({"w": torch.ones(2)}))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    done = run("export", tmp_path / "run", tmp_path / "home", "--to", "hf", "--overwrite", code=2)
    assert "thesis.tex" in done.stderr
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"
    assert (
        "is a folder"
        in run("export", tmp_path / "run", tmp_path / "home", "--to", "safetensors", "--overwrite", code=2).stderr
    )


def test_a_link_is_never_replaced(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "run", Saved({"w": torch.ones(2)}))
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    assert "is a link" in run("export", tmp_path / "run", tmp_path / "link", "--to", "hf", "--overwrite", code=2).stderr
    assert names(tmp_path) == ["link", "run", "there"]


@pytest.mark.parametrize("kind", ["safetensors", "hf", "torch", "dcp"])
def test_of_a_damaged_checkpoint_nothing_is_left(run: Run, tmp_path: Path, kind: str) -> None:
    saved(tmp_path / "run", Saved({"w": torch.arange(9)}))
    (pack,) = (tmp_path / "run").glob("data/*/*.safetensors")
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    done = run("export", tmp_path / "run", tmp_path / "out", "--to", kind, code=1)
    assert "model.w does not match its digest" in done.stderr
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("kind", ["safetensors", "hf", "torch", "dcp"])
@pytest.mark.parametrize(("which", "options"), [("@99", []), ("", ["--only", "nothing"])])
def test_what_is_not_there_is_absent(run: Run, tmp_path: Path, kind: str, which: str, options: list[str]) -> None:
    saved(tmp_path / "run", Saved({"w": torch.arange(9)}))
    run("export", f"{tmp_path / 'run'}{which}", tmp_path / "out", "--to", kind, *options, code=3)
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize(
    ("dest", "options", "said"),
    [
        ("s3://bucket/x", ["--to", "hf"], "s3://bucket/x is a URL"),
        ("nowhere/x", ["--to", "hf"], "nowhere is no folder"),
        ("x", ["--to", "torch", "--max-shard-size", "5GB"], "not for torch"),
        ("x", ["--to", "hf", "--max-shard-size", "many"], "5GB or 512MiB"),
        ("x", ["--to", "dcp", "--config", __file__], "--config is for hf"),
    ],
)
def test_what_means_nothing_is_refused(run: Run, dest: str, options: list[str], said: str) -> None:
    assert said in run("export", "nowhere-at-all", dest, *options, code=2).stderr


# -- what it takes -------------------------------------------------------------------------------------------------


def test_tensors_go_from_store_to_file_in_pieces_however_large_they_are() -> None:
    extents = tuple(Extent(0, number * EXTENT, EXTENT, "") for number in range(3))
    entry = TensorEntry("uint8", (3 * EXTENT,), (Box((0,), (3 * EXTENT,), extents),))
    contents = Contents((Pack("x", 3 * EXTENT, 0, ""),), {("w",): entry}, {})
    assert [span.length for span in spans(contents, whole=False)] == [EXTENT] * 3
    assert [span.length for span in spans(contents)] == [3 * EXTENT]


def test_weights_are_exported_and_imported_without_torch(tmp_path: Path) -> None:
    saved(tmp_path / "run", Tied())
    code = """
import sys
from asyncckpt.cli.app import app
def run(*arguments):
    app(arguments, standalone_mode=False)
root, out = sys.argv[1:]
run("export", root, f"{out}/file", "--to", "safetensors")
run("export", root, f"{out}/folder", "--to", "hf")
run("import", f"{out}/file", f"{out}/one")
run("import", f"{out}/folder", f"{out}/two")
print({"torch", "numpy"} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run", tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "set()"


def test_json_says_what_was_written(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "run", Tied())
    found = json.loads(run("export", tmp_path / "run", tmp_path / "out", "--to", "hf", "--json").stdout)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert found["schema"] == 1
    assert (found["id"], found["step"], found["to"], found["tensors"]) == ("00000001", 7, "hf", 3)
    assert found["files"] == [{"name": "model.safetensors", "bytes": size}]
    assert found["dest"] == str(tmp_path / "out")
    assert found["root"] == str(tmp_path / "run")
    assert found["notes"] == [
        "no config.json is known: transformers needs one beside the weights; give it with --config"
    ]
