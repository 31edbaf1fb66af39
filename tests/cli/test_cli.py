"""The command line: what it prints for people and for programs, and that it only reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

from asyncckpt import AsyncCheckpointer
from asyncckpt.cli.app import app
from asyncckpt.cli.output import age, print_table
from asyncckpt.cli.select import Target, target
from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.sizes import size


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three checkpoints, the second the best."""
    model = torch.nn.Linear(3, 2)
    parameters = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    with AsyncCheckpointer(tmp_path / "run", model=model, monitor=("loss", "min")) as checkpointer:
        for step, loss in ((10, 0.5), (20, 0.25), (30, float("nan"))):
            torch.nn.utils.vector_to_parameters(parameters * step, model.parameters())
            checkpointer.save(step, epoch=step // 10, metrics={"loss": loss}).wait()
    return tmp_path / "run"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def document(*arguments: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout)
    assert found["schema"] == 1
    return found


def pack_of(root: Path, seq: int) -> Path:
    return next((root / "data").glob(f"{seq:08d}-*/*.safetensors"))


def flip(path: Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_ls_lists_oldest_first_with_marks(root: Path) -> None:
    lines = run("ls", root).stdout.splitlines()
    assert lines[0].split() == ["ID", "STEP", "EPOCH", "AGE", "SIZE", "STATE", "METRICS"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["00000001", "10", "1"],
        ["00000002", "20", "2"],
        ["00000003", "30", "3"],
    ]
    assert "best" in lines[2]
    assert "latest" in lines[3]
    assert "loss=0.25" in lines[2]


def test_ls_as_json_has_stable_keys(root: Path) -> None:
    found = document("ls", root)
    assert [c["step"] for c in found["checkpoints"]] == [10, 20, 30]
    assert found["checkpoints"][2]["metrics"] == {"loss": "nan"}
    assert found["lost"] == []
    assert sorted(found["checkpoints"][0]) == sorted(
        [
            "id",
            "seq",
            "step",
            "epoch",
            "created",
            "size",
            "digest",
            "metrics",
            "tags",
            "pinned",
            "latest",
            "best",
            "partial",
            "damaged",
            "code_version",
            "message",
        ]
    )


def test_ls_shows_a_lost_record_as_damaged(root: Path) -> None:
    flip(root / "commits/0000000003.json", 5)
    assert "damaged" in run("ls", root).stdout
    assert [entry["slot"] for entry in document("ls", root)["lost"]] == [3]


def test_an_empty_root_is_no_error_and_says_so(tmp_path: Path) -> None:
    result = run("ls", tmp_path)
    assert result.stdout == ""
    assert "holds no checkpoints" in result.stderr


@pytest.mark.parametrize(
    ("selector", "step"), [("", 30), ("@latest", 30), ("@best", 20), ("@10", 10), ("@00000002", 20)]
)
def test_show_takes_every_selector(root: Path, selector: str, step: int) -> None:
    assert document("show", f"{root}{selector}")["step"] == step
    assert f"step            {step}" in run("show", f"{root}{selector}").stdout


def test_show_lists_tensors_by_pattern(root: Path) -> None:
    lines = run("show", root, "--tensors", "model.*").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["model.bias", "float32", "2"],
        ["model.weight", "float32", "2x3"],
    ]
    assert "model.weight" in run("show", root, "--tensors").stdout


def test_show_says_where_the_bytes_are(root: Path) -> None:
    found = document("show", f"{root}@20")
    assert found["parent"] == 1
    assert found["packs"] == [
        {"key": pack_of(root, 2).relative_to(root).as_posix(), "length": pack_of(root, 2).stat().st_size}
        | {"live": found["size"], "own": True}
    ]
    assert {t["name"]: t["bytes"] for t in found["tensors"]}["model.weight"] == 24


def test_verify_names_the_damaged_one_and_goes_on(root: Path) -> None:
    assert [c["state"] for c in document("verify", root)["checkpoints"]] == ["ok"] * 3
    flip(pack_of(root, 2))
    found = document("verify", root, code=1)
    assert [c["state"] for c in found["checkpoints"]] == ["ok", "damaged", "ok"]
    assert "does not match its digest" in found["checkpoints"][1]["reason"]
    assert "damaged" in run("verify", root, code=1).stdout
    run("verify", f"{root}@30")
    run("verify", f"{root}@20", code=1)


def test_verify_quick_sees_lengths_and_headers_but_not_every_byte(root: Path) -> None:
    flip(pack_of(root, 2))
    run("verify", root, "--quick")
    flip(pack_of(root, 1), 20)
    with pack_of(root, 3).open("ab") as file:
        file.write(b"x")
    states = [c["state"] for c in document("verify", root, "--quick", code=1)["checkpoints"]]
    assert states == ["damaged", "ok", "damaged"]


def test_verify_sees_a_missing_manifest_pack_and_record(root: Path) -> None:
    pack_of(root, 1).unlink()
    (pack_of(root, 2).parent / "manifest.json").unlink()
    (root / "commits/0000000004.json").unlink()
    found = document("verify", root, code=1)
    assert [c["id"] for c in found["checkpoints"] if c["state"] == "damaged"] == ["slot 4", "00000001", "00000002"]


def test_exit_codes_tell_what_is_wrong(root: Path, tmp_path: Path) -> None:
    run("verify", tmp_path / "nothing", code=3)
    assert "no checkpoint 77" in run("show", f"{root}@77", code=3).stderr
    assert "no checkpoint 'newest'" in run("show", f"{root}@newest", code=3).stderr
    assert "after the @ comes" in run("show", f"{root}@", code=3).stderr
    (tmp_path / "file").write_text("")
    for command in ("ls", "show", "verify"):
        result = run(command, tmp_path / "file", code=4)
        assert result.stderr.startswith("asyncckpt: ")
        assert "Traceback" not in result.output
    run("ls", code=2)
    run("no-such-command", code=2)
    flip(sorted((root / "commits").iterdir())[-1], 5)
    assert "commit record is damaged" in run("ls", root, code=1).stderr


def test_only_the_last_at_sign_counts_and_none_in_a_path_that_exists(tmp_path: Path) -> None:
    (tmp_path / "me@home").mkdir()
    assert target(str(tmp_path / "me@home")) == Target(str(tmp_path / "me@home"), None)
    assert target(f"{tmp_path}/me@home@latest") == Target(f"{tmp_path}/me@home", "latest")
    assert target("root@1000") == Target("root", 1000)
    assert target("root@00001000") == Target("root", "00001000")
    assert target("root@x") == Target("root", "x")
    with pytest.raises(CheckpointNotFoundError):
        target("root@")


def test_sizes_and_ages_are_for_people() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1 << 30, 1 << 41)] == ["0 B", "1023 B", "1.0 KiB", "1.0 GiB", "2.0 TiB"]
    assert age(0).endswith(" d")


def test_reading_commands_change_nothing(root: Path) -> None:
    def look() -> dict[str, tuple[int, int]]:
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in root.rglob("*")}

    before = look()
    for command in ("ls", "show", "verify"):
        run(command, root)
    assert look() == before


@pytest.mark.parametrize("command", ["ls", "show", "verify"])
def test_reading_commands_import_no_torch(root: Path, command: str) -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print({'torch', 'numpy'} & set(sys.modules), file=sys.stderr));"
        f"sys.argv = ['asyncckpt', {command!r}, {str(root)!r}]; from asyncckpt.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


def test_it_is_a_module_too_and_without_click_names_the_extra() -> None:
    done = subprocess.run([sys.executable, "-m", "asyncckpt", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("asyncckpt, version ")
    code = "import sys; sys.modules['click'] = None; from asyncckpt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'asyncckpt[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_rich_nothing_is_folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(["A"], [["drawn [b]as it is[/b]"]])
    assert "drawn [b]as it is[/b]" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setenv("COLUMNS", "20")
    print_table(["A", "B"], [["1", "too wide to be there as it is"]])
    _, headings, _, row, _ = capsys.readouterr().out.splitlines()
    assert click.unstyle(headings).split() == ["A", "B"]
    assert row == "  1   too wide to be there as it is"
