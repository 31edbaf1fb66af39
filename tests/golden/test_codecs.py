"""Runs that were stored with a codec are read and gone on with, for ever."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import asyncckpt
from asyncckpt import AsyncCheckpointer, SavePolicy, keys
from asyncckpt.cli.app import app
from asyncckpt.format import FORMAT, HIDDEN
from asyncckpt.format.sealed import unseal
from tests.golden.make import Box, draws, seed, tensors, training, values
from tests.golden.make_codecs import CODECS, HERE, KEY, PRESENT


@pytest.fixture(autouse=True)
def _key() -> Iterator[None]:
    keys.register(KEY)
    yield
    keys.forget()


@pytest.fixture(params=CODECS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE / request.param, tmp_path / request.param, symlinks=True))


def test_what_hides_has_a_golden_run_of_each_version() -> None:
    for folder in CODECS:
        (manifest,) = (HERE / folder).glob("data/00000002-*/manifest.json")
        version = unseal(manifest.read_bytes(), folder, also=HIDDEN)["format"]
        assert version == (HIDDEN if folder in PRESENT else FORMAT), folder
    assert {CODECS[folder] for folder in PRESENT} == {word for word in CODECS.values() if "aes" in word}


def test_a19_a20_d33_it_holds_what_it_held(root: Path) -> None:
    loaded = asyncckpt.load(root)
    assert loaded.info.step == 2
    assert loaded.state["extra"]["values"] == values()
    found = loaded.state["extra"]["tensors"]
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert CliRunner().invoke(app, ["verify", str(root)]).stdout == "00000002  step 2  ok\n"


def test_a19_a20_d33_it_is_gone_on_with(root: Path) -> None:
    seed()
    draws()
    drawn = draws()
    model, optimizer = training()
    expected = asyncckpt.load(root).state["model"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9)
    extra = {"values": Box({}), "tensors": Box({})}
    with AsyncCheckpointer(
        root, model=model, optimizer=optimizer, extra=extra, save=SavePolicy(codec=CODECS[root.name])
    ) as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        assert state.step == 2
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
        assert draws() == drawn
        checkpointer.save(3).wait()
        assert [c.step for c in checkpointer.checkpoints()] == [2, 3]
