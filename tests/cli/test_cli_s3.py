"""Every command on a real S3 server: what it says, what it leaves there, and the statuses that scripts see."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncckpt.cli.app import COMMANDS

from .conftest import Document, Run, train
from .test_cli_watch import Watch

if TYPE_CHECKING:
    from asyncckpt.testing.s3server import S3Server

ELSEWHERE = {"run", "demo", "doctor", "bench", "serve"}
"""``run`` asks no store; the others have tests of their own for it."""


def ids(document: Document, root: str, *options: str) -> list[str]:
    return [one["id"] for one in document("ls", root, *options)["checkpoints"]]


@pytest.fixture
def trained(bucket: str) -> str:
    """A finished run as `Saved` describes it."""
    train(bucket)
    return bucket


def test_none_is_left_out() -> None:
    text = Path(__file__).read_text()
    assert [name for name in COMMANDS if f'"{name}"' not in text and name not in ELSEWHERE] == []


def test_what_only_reads_changes_nothing(
    run: Run, document: Document, trained: str, s3: S3Server, tmp_path: Path
) -> None:
    before = s3.stored(trained)
    assert ids(document, trained) == ["00000001", "00000002", "00000003"]
    assert document("ls", trained, "--damaged", "--incomplete")["incomplete"] == []
    shown = document("show", f"{trained}@best", "--tensors")
    assert (shown["id"], shown["step"]) == ("00000002", 20)
    assert "model.embedding.weight" in str(run("show", f"{trained}@30", "--tensors").stdout)
    assert run("diff", f"{trained}@10", "@30").exit_code == 0
    for mode in ("--full", "--quick", "--sample=50%"):
        assert run("verify", trained, mode).exit_code == 0
    assert run("resume-path", trained, "--id", "--full").stdout == "00000003\n"
    assert run("resume-path", trained).stdout.startswith(f"{trained}/data/00000003-step-30-")
    assert document("report", trained)["checkpoints"]
    assert document("compare", trained)["runs"]
    assert run("export", trained, tmp_path / "model.safetensors", "--to", "safetensors").exit_code == 0
    assert run("gc", trained).stdout == "nothing to remove\n"
    assert run("prune", trained, "--keep-last", 1, "--dry-run").exit_code == 0
    assert run("cp", trained, f"{trained}-other", "--dry-run").exit_code == 0
    assert s3.stored(trained) == before
    assert s3.stored(f"{trained}-other") == ([], [])


def test_marks_and_removal(run: Run, document: Document, trained: str) -> None:
    assert run("tag", f"{trained}@10", "paper").exit_code == 0
    assert run("pin", f"{trained}@best").exit_code == 0
    assert document("show", f"{trained}@paper")["step"] == 10
    assert run("prune", trained, "--keep-last", 1, "--yes").exit_code == 0
    assert ids(document, trained) == ["00000001", "00000002", "00000003"], "a tag and a pin keep them"
    assert run("unpin", f"{trained}@20").exit_code == 0
    assert run("tag", trained, "paper", "--delete").exit_code == 0
    assert run("prune", trained, "--keep-last", 1, "--yes").exit_code == 0
    assert ids(document, trained) == ["00000002", "00000003"], "the best stays"
    assert run("gc", trained, "--alone", "--yes").exit_code == 0
    assert run("verify", trained).exit_code == 0


def test_damage_and_what_is_not_there(run: Run, document: Document, trained: str, s3: S3Server) -> None:
    name, _, prefix = trained.removeprefix("s3://").partition("/")
    (pack,) = [key for key in s3.stored(trained)[0] if "/00000003-" in key and key.endswith(".safetensors")]
    with closing(s3.client()) as client:
        client.delete_object(Bucket=name, Key=pack if pack.startswith(prefix) else f"{prefix}/{pack}")
    assert run("verify", trained, "--quick").exit_code == 1
    assert ids(document, trained, "--damaged") == []
    assert run("verify", f"{trained}@30", "--note").exit_code == 1
    assert ids(document, trained, "--damaged") == ["00000003"]
    assert run("resume-path", trained, "--id").stdout == "00000002\n"
    assert run("cp", f"{trained}@30", f"{trained}-other").exit_code == 1
    assert run("show", f"{trained}@99").exit_code == 3
    assert run("resume-path", f"{trained}-none").exit_code == 3
    assert run("ls", "s3://no-such-bucket-of-ours/run").exit_code == 4


def test_copies_and_conversions(run: Run, document: Document, trained: str, tmp_path: Path) -> None:
    there, here, new = f"{trained}-there", tmp_path / "here", f"{trained}-new"
    assert run("cp", f"{trained}@10", there).exit_code == 0
    assert run("sync", trained, there).exit_code == 0
    assert run("sync", there, here).exit_code == 0
    for root in (there, str(here)):
        assert ids(document, root) == ["00000001", "00000002", "00000003"]
        assert run("verify", root).exit_code == 0
    assert run("export", f"{trained}@20", tmp_path / "best.safetensors", "--to", "safetensors").exit_code == 0
    assert run("import", tmp_path / "best.safetensors", new, "--step", 20).exit_code == 0
    assert document("show", new)["step"] == 20
    assert run("import", tmp_path / "best.safetensors", new).exit_code == 2, "it holds a checkpoint"


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_changes_are_seen(run: Run, trained: str) -> None:
    with Watch("watch", trained, "--json") as watch:
        assert watch.change("watching")["checkpoints"] == 3
        run("tag", f"{trained}@20", "paper")
        assert watch.change("changed")["checkpoint"]["step"] == 20
