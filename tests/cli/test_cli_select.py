"""``ROOT[@...]``: what is taken for a root, and what for the name of a checkpoint."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from asyncckpt.cli.select import Target, reading, target
from asyncckpt.errors import CheckpointNotFoundError

from .conftest import Run, Saved

if TYPE_CHECKING:
    from pathlib import Path

    from asyncckpt.checkpoints.catalog import Catalog
    from asyncckpt.checkpoints.listing import Which


@pytest.mark.parametrize(
    ("text", "root", "which"),
    [
        ("runs/a", "runs/a", None),
        ("runs/a@best", "runs/a", "best"),
        ("runs/a@0", "runs/a", 0),
        ("runs/a@0005", "runs/a", 5),
        ("runs/a@9999999", "runs/a", 9_999_999),
        ("runs/a@00000005", "runs/a", "00000005"),
        ("runs/a@123456789", "runs/a", "123456789"),
        ("runs/a@b@7", "runs/a@b", 7),
        ("me@host/runs/a", "me@host/runs/a", None),
        ("s3://key@bucket/run", "s3://key@bucket/run", None),
        ("s3://key@bucket/run@7", "s3://key@bucket/run", 7),
    ],
)
def test_the_last_at_sign_counts_unless_a_folder_follows(text: str, root: str, which: Which | None) -> None:
    assert target(text) == Target(root, which)


@pytest.mark.parametrize("selector", ["newest", "-1", "1.5", "1e3", "²", "größe"])
def test_any_other_word_behind_the_at_sign_is_a_tag(selector: str) -> None:
    assert target(f"runs/a@{selector}") == Target("runs/a", selector)


@pytest.mark.parametrize("selector", ["", "٣", " x", "x" * 61])
def test_anything_else_behind_the_at_sign_is_refused(selector: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=f"runs/a@{selector}: after the @ comes"):
        target(f"runs/a@{selector}")


def test_a_path_that_exists_is_a_root_also_below_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "lr@5").mkdir()
    assert target("~/lr@5") == Target("~/lr@5", None)
    assert target("~/lr@5@5") == Target("~/lr@5", 5)


@pytest.mark.parametrize("command", ["ls", "show", "verify"])
def test_every_command_takes_a_root_with_an_at_sign(run: Run, saved: Saved, command: str) -> None:
    root = saved.root.rename(saved.root.with_name("lr@5"))
    result = run(command, root)
    assert result.exit_code == 0
    assert "30" in result.stdout
    if command != "ls":
        assert run(command, f"{root}@20").exit_code == 0
        assert run(command, f"{root}@5").exit_code == 3


@pytest.mark.parametrize("fails", [False, True])
def test_the_storage_is_closed_when_the_run_was_read_or_could_not_be(saved: Saved, fails: bool) -> None:
    used: list[Catalog] = []

    async def act(catalog: Catalog) -> None:
        used.append(catalog)
        await catalog.listing()
        if fails:
            raise CheckpointNotFoundError("none")

    with pytest.raises(CheckpointNotFoundError) if fails else nullcontext():
        reading(str(saved), act)
    with pytest.raises(RuntimeError, match="threads were ended"):
        asyncio.run(used[0].listing())
