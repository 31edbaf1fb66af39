"""``asyncckpt ls``: what is listed, and what is said where nothing can be."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from torch import nn

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.format.names import DataDirectory

from .conftest import Document, Run, Saved, Tied, flip

if TYPE_CHECKING:
    from pathlib import Path

    from asyncckpt.checkpoints.listing import Which


def test_each_checkpoint_is_one_line_with_its_marks_and_metrics(run: Run, saved: Saved) -> None:
    result = run("ls", saved)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [re.split(r"  +", line) for line in result.stdout.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["00000001", "10", "1"], ["00000002", "20", "2"], ["00000003", "30", "3"]]
    assert all(re.fullmatch(r"\d+ (s|min)", row[3]) for row in rows)
    assert all(re.fullmatch(r"\d+ B", row[4]) for row in rows)
    assert [row[5:] for row in rows] == [["val_loss=0.75"], ["best", "val_loss=0.25"], ["latest", "val_loss=0.5"]]


def test_numbers_are_aligned_to_the_right(run: Run, saved: Saved) -> None:
    lines = run("ls", saved).stdout.splitlines()
    ends = {line.index(word) + len(word) for line, word in zip(lines, ["STEP", "10", "20", "30"], strict=True)}
    assert ends == {len("00000001  STEP")}


def test_the_json_says_what_the_record_says(document: Document, saved: Saved) -> None:
    found, record = document("ls", saved), json.loads(saved.record(2).read_bytes())
    assert list(found) == ["schema", "root", "checkpoints", "lost"]
    assert found["checkpoints"][1] == {
        "id": "00000002",
        "seq": 2,
        "step": 20,
        "epoch": 2,
        "created": record["created"] / 1e6,
        "size": sum(pack["live"] for pack in record["packs"]),
        "digest": record["manifest"]["digest"],
        "metrics": {"val_loss": 0.25},
        "tags": [],
        "pinned": False,
        "latest": False,
        "best": True,
        "partial": False,
        "damaged": False,
        "code_version": record["code_version"],
        "message": None,
    }


def test_a_record_that_is_gone_is_listed_as_damaged_too(run: Run, document: Document, saved: Saved) -> None:
    record = saved.record(1)
    record.unlink()
    lines = run("ls", saved).stdout.splitlines()
    assert re.match(rf"slot {int(record.stem)} +damaged +.*{record.name}", lines[-1])
    assert [line.split()[0] for line in lines[1:-1]] == ["00000002", "00000003"]
    assert [lost["slot"] for lost in document("ls", saved)["lost"]] == [int(record.stem)]


@pytest.fixture
def two(tmp_path: Path) -> Saved:
    """A run with the checkpoints 1 and 2, of the steps 1 and 2."""
    with AsyncCheckpointer(tmp_path / "two", model=nn.Linear(2, 2)) as ckpt:
        ckpt.save(1).wait()
        ckpt.save(2).wait()
    return Saved(tmp_path / "two")


@pytest.mark.parametrize(("which", "latest"), [("latest", 2), (1, 1)])
def test_what_a_resume_would_take_is_marked_latest_also_after_a_rollback(
    document: Document, two: Saved, which: Which, latest: int
) -> None:
    with AsyncCheckpointer(two.root, model=nn.Linear(2, 2)) as ckpt:
        ckpt.resume(which=which)
    assert [c["step"] for c in document("ls", two)["checkpoints"] if c["latest"]] == [latest]


def test_where_the_latest_is_lost_the_one_before_is_what_a_resume_would_take(document: Document, two: Saved) -> None:
    with AsyncCheckpointer(two.root, model=nn.Linear(2, 2)) as ckpt:
        ckpt.resume()
    two.record(2).unlink()
    found = document("ls", two)
    assert len(found["lost"]) == 1
    assert [(c["step"], c["latest"]) for c in found["checkpoints"]] == [(1, True)]


def test_a_run_of_which_nothing_is_left_but_a_lost_record_is_not_empty(run: Run, two: Saved) -> None:
    with AsyncCheckpointer(two.root, model=nn.Linear(2, 2)) as ckpt:
        ckpt.resume()
    two.record(1).unlink()
    two.record(2).unlink()
    result = run("ls", two)
    assert result.stderr == ""
    assert [line.split()[2] for line in result.stdout.splitlines()[1:]] == ["damaged", "damaged"]


def test_a_damaged_newest_record_is_one_clear_line(run: Run, saved: Saved) -> None:
    flip(max((saved.root / "commits").iterdir()), 40)
    result = run("ls", saved)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"asyncckpt: the newest commit record is damaged .*\n", result.stderr)


@pytest.mark.parametrize("command", ["show", "verify"])
def test_what_a_damaged_newest_record_advises_works_as_it_stands(run: Run, saved: Saved, command: str) -> None:
    flip(max((saved.root / "commits").iterdir()), 40)
    (advice,) = re.findall(r"asyncckpt show (\S+@\d+)", run("ls", saved).stderr)
    for one in (advice, f"{saved}@00000002", f"{saved}@10"):
        result = run(command, one)
        assert (result.exit_code, result.stderr) == (0, "")
        assert not re.search("latest|best(?! by)", result.stdout)  # nobody knows
    for one in (saved, f"{saved}@latest", f"{saved}@best", f"{saved}@40"):
        result = run(command, one)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"asyncckpt show {advice}" in result.stderr


def test_what_is_verified_without_a_newest_record_is_not_called_removed(run: Run, saved: Saved) -> None:
    flip(max((saved.root / "commits").iterdir()), 40)
    flip(saved.pack(2))
    result = run("verify", f"{saved}@00000002")
    assert result.exit_code == 1
    assert result.stdout.startswith("00000002  step 20  damaged: ")


def test_a_file_of_somebody_else_in_place_of_the_run_file_is_no_empty_root(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"lr": 0.1}')
    result = run("ls", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"asyncckpt: {tmp_path}/run.json is not a run file of asyncckpt")


def test_lost_commits_are_no_empty_root(run: Run, saved: Saved) -> None:
    for record in (saved.root / "commits").iterdir():
        record.unlink()
    result = run("ls", saved)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no record of them: put a copy of commits/ back" in result.stderr


def test_a_run_without_its_run_file_is_damaged(run: Run, saved: Saved) -> None:
    (saved.root / "run.json").unlink()
    result = run("ls", saved)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "half copied" in result.stderr


def test_a_format_of_the_future_is_not_called_damaged(run: Run, saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncckpt.format.sealed.FORMAT", 0)
    result = run("ls", saved)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "upgrade asyncckpt" in result.stderr


def test_an_absent_root_stays_absent(run: Run, tmp_path: Path) -> None:
    result = run("ls", tmp_path / "none")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{tmp_path}/none holds no checkpoints: there is no such folder\n"
    for command in (("ls", "--damaged"), ("show",), ("tag", "x"), ("cp", tmp_path / "copy"), ("diff", "@latest")):
        assert run(command[0], tmp_path / "none", *command[1:]).stderr.removeprefix("asyncckpt: ") == result.stderr
    out = ("export", tmp_path / "none", tmp_path / "out", "--to")
    for form in ("torch", "hf"):
        done = run(*out, form)
        assert (done.exit_code, done.stderr) == (3, f"asyncckpt: {result.stderr}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["ls", ""], ["show", "@latest"], ["prune", "", "--keep-last", "1", "--yes"]])
def test_a_root_that_a_script_has_not_set_is_not_the_folder_that_it_runs_in(
    run: Run, saved: Saved, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(saved.root)
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr == "asyncckpt: an empty text is no root: give a folder (. is this one) or a URL\n"


def test_a_folder_of_runs_names_those_that_may_be_meant(run: Run, saved: Saved, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(saved.root, tmp_path / name)
    named = ", ".join(str(tmp_path / name) for name in ("a", "b", "c"))
    wanted = f"{tmp_path} holds no checkpoints, but the runs in it may: name one, as {named}, ...\n"
    assert run("ls", tmp_path).stderr == wanted
    assert run("verify", tmp_path).stderr == wanted
    assert run("show", tmp_path).stderr == f"asyncckpt: {wanted}"


def test_a_run_that_was_opened_and_never_saved_holds_nothing(run: Run, document: Document, tmp_path: Path) -> None:
    with AsyncCheckpointer(tmp_path / "run", model=nn.Linear(1, 1)) as ckpt:
        assert ckpt.resume() is None
    assert "holds no checkpoints" in run("ls", tmp_path / "run").stderr
    assert document("ls", tmp_path / "run") == {
        "schema": 1,
        "root": f"{tmp_path}/run",
        "checkpoints": [],
        "lost": [],
    }


def test_an_error_of_the_system_is_told_without_its_number(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("ls", tmp_path / "file")
    assert result.exit_code == 4
    assert re.fullmatch(rf"asyncckpt: {tmp_path}/file.*: a part of this path is a file.*\n", result.stderr)


def test_a_store_that_is_not_supported_is_named(run: Run) -> None:
    result = run("ls", "nothing://bucket/run")
    assert result.exit_code == 4
    assert result.stderr.startswith("asyncckpt: nothing://bucket/run: ")


def test_a_file_url_is_a_root(document: Document, saved: Saved) -> None:
    assert document("ls", f"file://{saved}")["checkpoints"] == document("ls", saved)["checkpoints"] != []


def test_a_metrics_name_cannot_steer_a_terminal_and_every_number_is_json(
    run: Run, document: Document, tmp_path: Path
) -> None:
    given = {"nan": float("nan"), "up": float("inf"), "\x1b[31mred\n": 1.0}
    with AsyncCheckpointer(tmp_path / "run", model=nn.Linear(1, 1)) as ckpt:
        ckpt.save(1, metrics=given).wait()
    found = document("ls", tmp_path / "run")["checkpoints"][0]["metrics"]
    assert found == {"nan": "nan", "up": "inf", "\x1b[31mred\n": 1.0}
    shown = run("ls", tmp_path / "run").stdout
    assert len(shown.splitlines()) == 2
    assert r"\x1b[31mred\n=1" in shown


def test_a_root_with_a_selector_is_a_wrong_command_line(run: Run, saved: Saved) -> None:
    result = run("ls", f"{saved}@10")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "leave out the @" in result.stderr


def leave(saved: Saved, seq: int, inc: int) -> DataDirectory:
    """Leave what a save had written when it ended."""
    directory = DataDirectory(seq, 99, inc, "0123abcd")
    pack = saved.root / directory.pack(0, 1, 0)
    pack.parent.mkdir()
    pack.write_bytes(b"left over")
    return directory


def test_only_what_is_damaged_is_listed_if_that_is_asked(run: Run, document: Document, saved: Saved) -> None:
    assert run("ls", saved, "--damaged").stderr == f"{saved} holds nothing of that kind\n"
    flip(saved.pack(2))
    run("verify", saved, "--note")
    flip(saved.record(1), 40)
    lines = run("ls", saved, "--damaged").stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["00000002", "slot"]
    found = document("ls", saved, "--damaged")
    assert [row["id"] for row in found["checkpoints"]] == ["00000002"]
    assert len(found["lost"]) == 1
    assert "incomplete" not in found
    leave(saved, seq=9, inc=1)
    found = document("ls", saved, "--damaged", "--incomplete")
    assert [row["id"] for row in found["checkpoints"]] == ["00000002"]
    assert (len(found["lost"]), found["incomplete"]) == (1, []), "the lost record may be what lists it"
    done = run("ls", saved, "--incomplete")
    said = "a commit record is lost, and may be all that names what looks incomplete: nothing is called that"
    assert (done.stdout, done.stderr) == ("", f"{saved}: {said}\n")


def test_saves_that_came_to_no_commit_are_listed_if_that_is_asked(run: Run, document: Document, saved: Saved) -> None:
    assert document("ls", saved, "--incomplete")["incomplete"] == []
    left = leave(saved, seq=9, inc=1)
    assert run("ls", saved, "--incomplete").stdout.splitlines()[1:] == [
        "00000009    99            1        1   9 B  left: gc removes it"
    ]
    found = document("ls", saved, "--incomplete")
    assert found["checkpoints"] == []
    assert found["incomplete"] == [
        {"folder": left.key, "seq": 9, "step": 99, "incarnation": 1, "objects": 1, "bytes": 9, "may_go_on": False}
    ]
    with AsyncCheckpointer(saved.root, model=Tied(), executor="thread") as ckpt:
        ckpt.resume(which=10)
        leave(saved, seq=10, inc=2)
        (own,) = document("ls", saved, "--incomplete")["incomplete"]
        assert (own["seq"], own["may_go_on"]) == (10, True)
        assert "under way, or left by a training that died" in run("ls", saved, "--incomplete").stdout


def test_what_was_removed_and_is_being_deleted_is_no_incomplete_save(document: Document, saved: Saved) -> None:
    gone = leave(saved, seq=2, inc=1)
    (saved.root / gone.manifest).write_bytes(b"{}")
    assert document("ls", saved, "--incomplete")["incomplete"] == []


def test_what_a_later_checkpoint_shares_of_a_removed_one_is_no_incomplete_save(
    document: Document, tmp_path: Path
) -> None:
    model = nn.ModuleDict({"frozen": nn.Linear(64, 64), "head": nn.Linear(2, 2)})
    with AsyncCheckpointer(tmp_path, model=model, executor="thread", keep=RetentionPolicy(last=1)) as ckpt:
        for step in (1, 2):
            model["head"].weight.data.fill_(step)
            ckpt.save(step).wait()
    (former,) = tmp_path.glob("data/00000001-*")
    assert [path.suffix for path in former.iterdir()] == [".safetensors"], "its bytes are needed, its manifest is gone"
    assert document("ls", tmp_path, "--incomplete")["incomplete"] == []
