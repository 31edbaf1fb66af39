"""``resume-path``: what a training would resume from, as a shell script asks it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.format import record
from asyncckpt.format.names import directory_of

from .conftest import Document, Run, Saved, flip, train, tree


def folder(saved: Saved, seq: int) -> str:
    return str(saved.manifest(seq).parent)


def test_it_is_the_folder_of_the_latest_or_its_id(run: Run, document: Document, saved: Saved) -> None:
    before = tree(saved.root)
    done = run("resume-path", saved)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{folder(saved, 3)}\n", "")
    assert run("resume-path", saved, "--id").stdout == "00000003\n"
    assert document("resume-path", saved) == {
        "schema": 1,
        "root": str(saved),
        "id": "00000003",
        "step": 30,
        "path": folder(saved, 3),
        "passed": [],
    }
    assert tree(saved.root) == before


def test_what_is_damaged_is_passed_over_for_the_one_before(run: Run, document: Document, saved: Saved) -> None:
    saved.pack(3).unlink()
    done = run("resume-path", saved, "--id")
    assert (done.exit_code, done.stdout) == (0, "00000002\n")
    assert done.stderr.startswith("passed over: 00000003 (step 30): is damaged: ")
    (passed,) = document("resume-path", saved)["passed"]
    assert (passed["id"], passed["step"], "is missing" in passed["reason"]) == ("00000003", 30, True)


def test_a_byte_that_is_wrong_is_seen_with_full_or_once_somebody_has_seen_it(run: Run, saved: Saved) -> None:
    flip(saved.pack(3))
    assert run("resume-path", saved, "--id").stdout == "00000003\n"
    assert run("resume-path", saved, "--id", "--full").stdout == "00000002\n"
    run("verify", saved, "--note")
    done = run("resume-path", saved, "--id")
    assert (done.stdout, "was noted as damaged; --full looks again" in done.stderr) == ("00000002\n", True)
    flip(saved.pack(3))
    assert run("resume-path", saved, "--id", "--full").stdout == "00000003\n"


def test_it_is_what_a_training_resumes_from(run: Run, tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with AsyncCheckpointer(tmp_path / "run", model=model) as ckpt:
        for step in (1, 2, 3):
            model.weight.data.fill_(step)
            ckpt.save(step).wait()
    with AsyncCheckpointer(tmp_path / "run", model=model) as ckpt:
        ckpt.resume(which=2)  # rolls back: step 3 is an abandoned branch now
        model.weight.data.fill_(4)
        ckpt.save(4).wait()
    newest = next((tmp_path / "run" / "data").glob("00000004-*/*.safetensors"))
    newest.unlink()
    said = run("resume-path", tmp_path / "run", "--id").stdout
    with AsyncCheckpointer(tmp_path / "run", model=model) as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert (said, state.step) == ("00000002\n", 2)


def test_one_that_is_named_is_asked_about_alone(run: Run, saved: Saved) -> None:
    assert run("resume-path", f"{saved}@best", "--id").stdout == "00000002\n"
    assert run("resume-path", f"{saved}@10", "--id").stdout == "00000001\n"
    saved.pack(2).unlink()
    done = run("resume-path", f"{saved}@best")
    assert (done.exit_code, done.stdout) == (1, "")
    assert run("resume-path", f"{saved}@99").exit_code == 3
    assert run("resume-path", f"{saved}@latest", "--id").stdout == "00000003\n"
    saved.pack(3).unlink()
    done = run("resume-path", f"{saved}@latest", "--id")
    assert (done.stdout, len(done.stderr.splitlines())) == ("00000001\n", 2), "the latest goes back as a resume does"


def test_one_that_is_partial_is_said_to_be_and_passed_over(run: Run, saved: Saved) -> None:
    path = saved.record(2)
    found = record.decode(path.read_bytes(), path.name)
    assert found.checkpoint is not None
    path.write_bytes(replace(found, checkpoint=replace(found.checkpoint, partial=("optimizer",))).encode())
    done = run("resume-path", f"{saved}@20")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "is partial: it holds no optimizer; resume(allow_partial=True) takes it" in done.stderr
    saved.pack(3).unlink()
    assert run("resume-path", saved, "--id").stdout == "00000001\n"


def test_the_status_tells_nothing_there_from_damaged_and_from_unreadable(
    run: Run, document: Document, saved: Saved, tmp_path: Path
) -> None:
    done = run("resume-path", tmp_path / "none")
    said = f"{tmp_path / 'none'} holds no checkpoints: there is no such folder\n"
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", said)
    assert document("resume-path", tmp_path / "none")["id"] is None
    (tmp_path / "file").write_text("")
    assert run("resume-path", tmp_path / "file").exit_code == 4
    for seq in (1, 2, 3):
        saved.pack(seq).unlink()
    done = run("resume-path", saved)
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 3)


def test_a_record_that_is_lost_is_told_and_passed_over(run: Run, saved: Saved) -> None:
    flip(saved.record(3), 40)
    done = run("resume-path", saved, "--id")
    assert (done.exit_code, done.stdout) == (0, "00000002\n")
    assert "passed over: slot " in done.stderr


def test_a_bucket_answers_with_urls(run: Run, bucket: str) -> None:
    train(bucket)
    path = run("resume-path", bucket).stdout.strip()
    assert path.startswith(f"{bucket}/data/00000003-step-30-i1-")
    assert directory_of(f"{path.removeprefix(f'{bucket}/')}/manifest.json") is not None
    assert run("resume-path", f"{bucket}@best", "--id").stdout == "00000002\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell is asked")
def test_the_script_of_the_help_does_what_it_says(saved: Saved, tmp_path: Path) -> None:
    script = 'if id=$(%s resume-path "$1" --id); then echo "goes on from $id"\n' % f"{sys.executable} -m asyncckpt"  # noqa: UP031
    script += 'elif [ $? -eq 3 ]; then echo "begins"; else exit 1; fi'

    def asked(root: object) -> tuple[int, str]:
        done = subprocess.run(["sh", "-c", script, "sh", str(root)], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert asked(saved) == (0, "goes on from 00000003\n")
    assert asked(tmp_path / "none") == (0, "begins\n")
    for seq in (1, 2, 3):
        saved.pack(seq).unlink()
    assert asked(saved) == (1, "")
