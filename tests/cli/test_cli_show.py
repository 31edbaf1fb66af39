"""``asyncckpt show``: everything about one checkpoint."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

import asyncckpt
from asyncckpt.cli.show import Found, origin
from asyncckpt.format import record as records
from asyncckpt.format.contents import Alias, Box, Extent, Pack, TensorEntry
from asyncckpt.format.contents import Contents as Stored
from asyncckpt.format.manifest import Manifest
from asyncckpt.format.record import PackUse
from asyncckpt.inspection.contents import Component, Contents
from asyncckpt.inspection.summary import Summary

from .conftest import Document, Run, Saved, flip

if TYPE_CHECKING:
    from asyncckpt.format.sealed import Json


def test_the_tensors_are_those_that_load_gives_and_a_tied_one_is_an_alias(document: Document, saved: Saved) -> None:
    tensors = {t["name"]: t for t in document("show", saved)["tensors"]}
    state = asyncckpt.load(saved.root).state
    weight = state["model"]["embedding.weight"]
    moment = state["optimizer"]["state"][0]["exp_avg"]
    assert tensors["optimizer.state.0.exp_avg"] == {
        "name": "optimizer.state.0.exp_avg",
        "dtype": "float32",
        "shape": list(moment.shape),
        "bytes": moment.nbytes,
        "alias_of": None,
    }
    tied = [tensors["model.embedding.weight"], tensors["model.head.weight"]]
    assert sorted(t["bytes"] for t in tied) == [0, weight.nbytes]
    (alias,) = (t for t in tied if t["alias_of"])
    assert tensors[alias["alias_of"]]["bytes"] == weight.nbytes
    assert torch.equal(weight, state["model"]["head.weight"])


def test_components_add_up_to_the_checkpoint(document: Document, saved: Saved) -> None:
    found = document("show", saved)
    components = {c["name"]: c for c in found["components"]}
    assert list(components) == ["model", "optimizer", "rng"]
    assert components["model"] == {"name": "model", "tensors": 2, "bytes": 8 * 4 * 4, "values": 0}
    assert sum(c["bytes"] for c in components.values()) == found["size"]
    assert sum(c["tensors"] for c in components.values()) == len(found["tensors"])
    assert sum(c["values"] for c in components.values()) == len(found["values"])


def test_values_are_listed_by_name_in_short_form(run: Run, document: Document, saved: Saved) -> None:
    values = {value["name"]: value["text"] for value in document("show", saved)["values"]}
    assert values["optimizer.param_groups.0.lr"] == "0.5"
    assert values["optimizer.param_groups.0.betas"] == "(0.9, 0.999)"
    assert values["rng.python"].startswith("(3, bytes(")
    assert re.search(r"^optimizer\.param_groups\.0\.lr +0\.5$", run("show", saved).stdout, re.MULTILINE)


def test_the_json_says_where_it_came_from(document: Document, saved: Saved) -> None:
    found, record = document("show", f"{saved}@20"), json.loads(saved.record(2).read_bytes())
    listed = document("ls", saved)["checkpoints"][1]
    assert {key: found[key] for key in listed} == listed
    folder = record["manifest"]["key"].rsplit("/", 1)[0]
    assert {key: value for key, value in found.items() if key not in listed} == {
        "schema": 1,
        "run": json.loads((saved.root / "run.json").read_bytes())["id"],
        "incarnation": 1,
        "parent": 1,
        "world": 1,
        "monitor": ["val_loss", "min"],
        "slot": int(saved.record(2).stem),
        "writer": {key: record["writer"][key] for key in ("host", "pid", "nonce")},
        "folder": folder,
        "shared": 0,
        "lacks": [],
        "damage": None,
        "manifest": {"key": f"{folder}/manifest.json", "length": saved.manifest(2).stat().st_size},
        **{key: found[key] for key in ("packs", "components", "tensors", "values")},
    }


def test_for_people_every_fact_is_a_line_and_what_is_not_known_a_dash(run: Run, saved: Saved) -> None:
    facts = dict(line.split(maxsplit=1) for line in run("show", f"{saved}@10").stdout.split("\n\n")[0].splitlines())
    assert (facts["step"], facts["epoch"], facts["ranks"], facts["state"]) == ("10", "1", "1", "-")
    assert facts["metrics"] == "val_loss=0.75"
    assert facts["best"] == "by         val_loss min"
    assert facts["continued"] == "from  -"
    assert facts["record"] == f"commits/{saved.record(1).name}"
    assert facts["folder"] == f"data/{saved.manifest(1).parent.name}"


def test_packs_are_listed_with_what_is_used_of_them(run: Run, saved: Saved) -> None:
    pack = saved.pack(3)
    line = next(line for line in run("show", saved).stdout.splitlines() if pack.name in line)
    assert re.fullmatch(rf"data/{pack.parent.name}/{pack.name} +[\d.]+ KiB +\d+ B  own", line)


def test_the_pack_of_an_older_checkpoint_names_it(saved: Saved) -> None:
    record = records.decode(saved.record(3).read_bytes(), "record")
    assert record.checkpoint is not None
    older = f"data/{saved.pack(1).parent.name}/{saved.pack(1).name}"
    uses = [*record.checkpoint.packs, PackUse(older, 1, 1), PackUse("data/odd/pack.safetensors", 1, 1)]
    found = Found(_summary_of(record), record, record.checkpoint, Contents(_manifest({})))
    assert [origin(found, use) for use in uses] == ["own", "of 00000001", "older"]
    assert [found.is_own(use) for use in uses] == [True, False, False]


def _summary_of(record: records.Record) -> Summary:
    from asyncckpt.checkpoints.listing import info_of

    assert record.checkpoint is not None
    return Summary(info_of(record.checkpoint), latest=True)


def _manifest(values: dict[str, Json], *paths: tuple[str, ...]) -> Manifest:
    """A manifest with float32 scalars at `paths`."""
    box = Box((), (), (Extent(0, 0, 4, "0" * 32),))
    tensors = {path: TensorEntry("float32", (), (box,)) for path in paths}
    return Manifest("run", 1, 1, 1, "0" * 8, 2, Stored((Pack("data/p", 4096, 8, "0" * 32),), tensors, {}, values))


def test_what_belongs_to_one_rank_is_a_component_of_its_own() -> None:
    values: dict[str, Json] = {
        "state": {"model": {"w": {"$tensor": ["model", "w"]}}},
        "rank-0": {"rng": {"python": 1}},
        "rank-1": {"rng": {"python": 2, "torch": {"$tensor": ["rank-1", "rng", "torch"]}}},
    }
    contents = Contents(_manifest(values, ("model", "w"), ("rank-1", "rng", "torch")))
    assert contents.components() == [
        Component("model", 1, 4, 0),
        Component("rank-0.rng", 0, 0, 1),
        Component("rank-1.rng", 1, 4, 1),
    ]


def test_a_component_may_be_named_like_the_scope_of_all_ranks() -> None:
    values: dict[str, Json] = {"state": {"state": {"x": 1, "y": 2}}}
    assert Contents(_manifest(values, ("state", "t"))).components() == [Component("state", 1, 4, 2)]


def test_an_alias_takes_no_bytes() -> None:
    manifest = _manifest({"state": {}}, ("model", "a"))
    alias = Alias(("model", "a"), "float32", (), (), 0)
    tied = replace(manifest, contents=replace(manifest.contents, aliases={("model", "b"): alias}))
    assert Contents(tied).components() == [Component("model", 2, 4, 0)]
    assert [t.json()["alias_of"] for t in Contents(tied).tensors()] == [None, "model.a"]


# -- --tensors ---------------------------------------------------------------------------------------------


def test_tensors_alone_are_listed_and_what_shares_their_bytes(run: Run, saved: Saved) -> None:
    heading, *lines = run("show", saved, "--tensors", "model.*").stdout.splitlines()
    assert heading.split(maxsplit=4) == ["TENSOR", "DTYPE", "SHAPE", "SIZE", "SHARES THE BYTES OF"]
    assert sorted(line.split()[0] for line in lines) == ["model.embedding.weight", "model.head.weight"]
    assert all(line.split()[1:3] == ["float32", "8x4"] for line in lines)
    assert sum(len(line.split()) == 6 for line in lines) == 1


def test_a_pattern_narrows_the_json_too(document: Document, saved: Saved) -> None:
    found = document("show", saved, "--tensors", "*.exp_avg")
    assert [t["name"] for t in found["tensors"]] == ["optimizer.state.0.exp_avg"]
    assert found["components"] == document("show", saved)["components"]


def test_a_pattern_that_nothing_matches_is_told(run: Run, saved: Saved) -> None:
    result = run("show", saved, "--tensors", "modle.*")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "no tensor of it is named modle.*\n"


# -- what stands in the way --------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_manifest_is_one_clear_line(run: Run, saved: Saved, damage: str) -> None:
    manifest = saved.manifest(2)
    if damage == "flip":
        flip(manifest, 100)
    elif damage == "cut":
        manifest.write_bytes(manifest.read_bytes()[:-10])
    else:
        manifest.unlink()
    result = run("show", f"{saved}@20")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(rf"asyncckpt: .*{manifest.parent.name}/manifest\.json .*\n", result.stderr)
    assert run("show", saved).exit_code == 0


def test_a_damaged_pack_is_not_looked_at(run: Run, saved: Saved) -> None:
    saved.pack(3).unlink()
    assert run("show", saved).exit_code == 0


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(run: Run, saved: Saved) -> None:
    result = run("show", f"{saved}@25")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"asyncckpt: {saved}: no checkpoint 25: steps 10, 20, 30 are there\n"


def test_a_checkpoint_that_may_be_the_lost_one_is_damaged_and_not_absent(run: Run, saved: Saved) -> None:
    record = saved.record(1)
    flip(record, 40)
    result = run("show", f"{saved}@10")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "lost" in result.stderr
    assert record.name in result.stderr


def test_step_0_is_a_step_and_not_the_latest(run: Run, saved: Saved) -> None:
    assert run("show", f"{saved}@0").exit_code == 3


def test_where_nothing_was_saved_there_is_nothing_to_show(run: Run, saved: Saved) -> None:
    result = run("show", saved.root.parent)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"the runs in it may: name one, as {saved.root}" in result.stderr
