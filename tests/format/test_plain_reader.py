"""docs/format.md says enough: what was written from it alone reads every golden run and a fresh one, to the bit."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asyncckpt
from asyncckpt import AsyncCheckpointer, RetentionPolicy, keys
from asyncckpt.testing.ranks import run_ranks
from tests.format import plain_reader
from tests.format.coded_reader import CodedReader
from tests.format.plain_reader import Reader, Tensors
from tests.golden import make_codecs, test_golden
from tests.golden.make import Box
from tests.worker.stores import Ignoring

RUNS = [
    *(test_golden.HERE / version for version in test_golden.VERSIONS),
    *(make_codecs.HERE / folder for folder in make_codecs.CODECS),
]


@pytest.fixture
def _key() -> Iterator[None]:
    keys.register(make_codecs.KEY)
    yield
    keys.forget()


def named(value: Any, path: tuple[str, ...] = ()) -> Iterator[Any]:
    """The tensors in what the package itself has loaded, as a reader gives them."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, torch.Tensor):
        data = bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist()) if value.numel() else b""
        yield path, (str(value.dtype).removeprefix("torch."), list(value.shape), data)
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from named(item, (*path, str(key)))


def shown(found: Tensors) -> Tensors:
    """Those that belong somewhere: bytes that several share are a tensor of their own, and nobody's."""
    return {path: tensor for path, tensor in found.items() if path[-1] != "$storage"}


def test_it_is_sixty_lines_of_the_standard_library() -> None:
    source = Path(plain_reader.__file__).read_text()
    nodes = list(ast.walk(ast.parse(source)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names
    assert sum(1 for line in source.splitlines() if line.strip()) <= 60


@pytest.mark.parametrize("root", RUNS, ids=lambda root: root.name)
@pytest.mark.usefixtures("_key")
def test_it_reads_the_golden_runs_of_every_version_and_codec(root: Path) -> None:
    reader = Reader(root) if root.name.startswith("v") else CodedReader(root, [make_codecs.KEY])
    found = reader.tensors()
    assert found == dict(named(asyncckpt.load(root).state))
    assert len(found) > 25


def state() -> dict[str, Any]:
    """Tensors of every form: strided, tied, and some that share bytes which none of them covers."""
    torch.manual_seed(3)
    both, dtypes = torch.arange(8, dtype=torch.int32), ("float8_e4m3fn", "complex64", "uint16", "float16", "uint8")
    return {
        "frozen": torch.randn(5000),
        "channels": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "array": np.arange(6.0).reshape(2, 3),
        "halves": [both[:5], both[3:]],
        "conjugate": torch.tensor([1 + 2j]).conj(),
        **{name: torch.arange(3).to(getattr(torch, name)) for name in dtypes},
    }


def test_it_reads_what_shares_the_packs_of_checkpoints_that_are_gone(tmp_path: Path) -> None:
    model, box = torch.nn.Linear(2, 1), Box(state())
    with AsyncCheckpointer(
        tmp_path / "run", model=model, extra={"box": box}, keep=RetentionPolicy(last=1), executor="thread"
    ) as ckpt:
        for step in (1, 2, 3):
            ckpt.save(step).wait()
            model.weight.data += 1
            ckpt.before_mutation()
    reader = Reader(tmp_path / "run")
    packs = [pack["key"] for pack in reader.manifest()["packs"]]
    assert {key[:22] for key in packs} == {"data/00000001-step-1-i1", "data/00000003-step-3-i1"} or len(packs) == 2
    found = reader.tensors()
    assert shown(found) == dict(named(asyncckpt.load(tmp_path / "run").state))
    assert len(found) == len(shown(found)) + 1


def test_it_reads_a_run_whose_store_creates_nothing_exclusively(tmp_path: Path) -> None:
    storage = Ignoring("fenced")
    with AsyncCheckpointer(storage, model=torch.nn.Linear(2, 1), executor="thread") as ckpt:
        ckpt.save(1).wait()
        ckpt.save(2).wait()
    copied(storage, tmp_path)
    reader = Reader(tmp_path)
    assert reader.run["mode"] == "fenced"
    assert reader.tensors() == dict(named(asyncckpt.load(storage).state))


def copied(storage: Ignoring, root: Path) -> None:
    """Everything in `storage` as files."""

    async def copy() -> None:
        async for found in storage.list(""):
            path = root / found.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(await storage.get(found.key))

    asyncio.run(copy())


def saved_by_ranks(root: str) -> None:
    rank = torch.distributed.get_rank()
    own = Box({"shard": torch.arange(4) + 10 * rank})
    torch.manual_seed(0)
    with AsyncCheckpointer(root, model=torch.nn.Linear(2, 1), extra={"own": own}, executor="thread") as ckpt:
        ckpt.save(1).wait()


@pytest.mark.ranks
def test_it_reads_the_parts_of_all_ranks(tmp_path: Path) -> None:
    run_ranks(saved_by_ranks, 2, str(tmp_path / "run"))
    found = Reader(tmp_path / "run").tensors()
    for rank in (0, 1):
        shard = found.pop((f"rank-{rank}", "extra", "own", "shard"))
        assert shard == dict(named({"": torch.arange(4) + 10 * rank}))["",]
    model = asyncckpt.load(tmp_path / "run", only="model").state
    assert found == dict(named(model))


def test_no_key_leads_it_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"mode": "exclusive"}))
    (tmp_path / "secret").write_text("not for checkpoints")
    for key in ("../secret", "/etc/passwd", "data/../../secret", "data/.hidden", "", "data//x"):
        with pytest.raises(ValueError, match="out of the root"):
            Reader(tmp_path / "run").get(key)
