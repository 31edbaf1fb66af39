"""Which run it is, and by which code (features D1, D2, D3, B17, A10, A25, A25b)."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from asyncckpt import AsyncCheckpointer, Run, load
from asyncckpt.errors import StorageError
from asyncckpt.metrics_log import read_metrics
from asyncckpt.plots import Plotter
from asyncckpt.revision import CodeVersion
from asyncckpt.run import code_version
from asyncckpt.run.identity import new_id
from asyncckpt.trackers import JsonLinesTracker

from .conftest import SOURCE, Place, Train, git

NOW = datetime(2024, 12, 9, 14, 30, 22, tzinfo=UTC)


def test_d1_the_id_is_name_time_and_commit(somewhere: Place, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(repository / "train.py"), raising=False)
    (repository / "train.py").write_text("print('changed')\n")  # which is said beside the id, and not in it
    run = somewhere.open(name="wave_rgd")
    head = git(repository, "rev-parse", "HEAD")
    assert re.fullmatch(rf"wave_rgd_\d{{8}}_\d{{6}}_{head[:8]}", run.id)
    identity = json.loads(somewhere.read("identity.json") or b"")
    assert (identity["id"], identity["name"]) == (run.id, "wave_rgd")
    assert identity["code_version"] == {"hash": head[:8], "dirty": True}
    made = datetime.fromisoformat(identity["created"])
    assert made.tzinfo is not None
    assert f"{made:%Y%m%d_%H%M%S}" in run.id


def test_d1_two_ids_of_one_second_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of this machine are also those of who runs this test elsewhere, or ran it just now.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("asyncckpt.run.identity._made", set())
    code = CodeVersion("a3f2b1c4")
    made = [new_id("twice", code, NOW) for _ in range(3)]
    assert [each for each, _ in made] == [f"twice_20241209_1430{second}_a3f2b1c4" for second in (22, 23, 24)]
    assert [moment.second for _, moment in made] == [22, 23, 24], "the second that it names"


def test_d1_two_ids_of_one_second_differ_where_there_is_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert new_id("homeless", CodeVersion("a3f2b1c4"), NOW)[0] != new_id("homeless", CodeVersion("a3f2b1c4"), NOW)[0]


def test_a10_two_processes_in_one_second_have_ids_of_their_own(tmp_path: Path) -> None:
    program = (
        "from datetime import UTC, datetime\nfrom asyncckpt.run.identity import new_id\n"
        "from asyncckpt.revision import CodeVersion\n"
        "print(new_id('array', CodeVersion('a3f2b1c4'), datetime(2024, 12, 9, tzinfo=UTC))[0])"
    )

    def made(_: int) -> str:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout

    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(made, range(3)))) == 3


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("/absolute", "absolute"),
        ("", "run"),
        ("...", "run"),
        ("a b:c?", "a-b-c"),
        ("Größe", "Groe"),
        ("日本", "run"),
        ("x" * 300, "x" * 80),
        ("new\nline", "new-line"),
    ],
)
def test_a25b_a_name_leads_nowhere(name: str, safe: str) -> None:
    made, _ = new_id(name, CodeVersion("a3f2b1c4"), NOW)
    assert re.fullmatch(rf"{re.escape(safe)}_\d{{8}}_\d{{6}}_a3f2b1c4", made)


def test_a25b_a_run_made_by_its_name_stays_below_its_folder(tmp_path: Path) -> None:
    with Run.open(f"{tmp_path}/runs/{{id}}", name="../../out", logs=False) as run:
        assert Path(run.url).parent == tmp_path / "runs"
        assert Path(run.url).name == run.id
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a25b_files_have_the_mode_that_the_umask_leaves(train: Train, tmp_path: Path) -> None:
    train("os.umask(0o027)\nRun.open('run', config={'lr': 1}).close()")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert modes == {0o640}


def test_d3_each_start_has_a_folder_of_its_own_where_the_root_has_the_id(tmp_path: Path) -> None:
    runs = [Run.open(f"{tmp_path}/experiments/{{id}}", name="d3") for _ in range(2)]
    for run in runs:
        with run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
            ckpt.save(1).wait()
        root = tmp_path / "experiments" / run.id
        assert {"identity.json", "config.json", "logs", "data", "checkpoints"} <= {path.name for path in root.iterdir()}
    assert len(list((tmp_path / "experiments").iterdir())) == 2
    with pytest.raises(ValueError, match="use its path"):
        Run.open(f"{tmp_path}/experiments/{{id}}", mode="resume")


def test_d3_each_part_of_an_experiment_has_its_folder_and_no_later_start_changes_any_of_it(tmp_path: Path) -> None:
    """``checkpoints``, ``logs``, ``visualizations`` of the original; folders may be there, and have odd names."""
    above = tmp_path / "all my experiments" / "größe"
    for number in range(2):
        with Run.open(f"{above}/{{id}}", name="d3") as run:
            trackers = run.trackers(JsonLinesTracker(f"{run.url}/logs"))
            plots = Plotter(f"{run.url}/plots", every=1)
            with AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
                ckpt.save(1).wait()
            trackers.log(1, {"loss": 0.5})
            trackers.log(2, {"loss": 0.25})
            plots.training(2, read_metrics(f"{run.url}/logs"))
            assert plots.close(60)
        root = above / run.id
        for name in ("data", "logs", "plots"):
            assert [path for path in (root / name).rglob("*") if path.is_file()], name
        assert load(root).info.step == 1
        if number == 0:
            first = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert len(list(above.iterdir())) == 2
    assert {path: path.read_bytes() for path in first} == first
    with Run.open(root, mode="auto", logs=False) as again:
        assert (again.id, again.mode) == (run.id, "resume"), "existing is fine where that is said"


def test_d3_a_file_where_the_folder_should_be_is_named_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="file"):
        Run.open(f"{tmp_path}/file/{{id}}", name="d3")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a25_a_name_that_is_given_comes_before_that_of_the_configuration(tmp_path: Path) -> None:
    named = {"name": "of-config"}
    assert Run.open(tmp_path / "a", name="given", config=named, logs=False).name == "given"
    assert Run.open(tmp_path / "b", config=named, logs=False).name == "of-config"
    assert Run.open(tmp_path / "c", config={"experiment_name": "other"}, logs=False).name == "other"
    assert Run.open(tmp_path / "of-folder", logs=False).name == "of-folder"
    typed = ["experiment_name=typed"]  # of whichever name: it comes between the two
    assert Run.open(tmp_path / "d", config=named, overrides=typed, logs=False).name == "typed"
    assert Run.open(tmp_path / "e", name="given", config=named, overrides=typed, logs=False).name == "given"
    assert Run.open(tmp_path / "f", config=named, overrides=["lr=1"], logs=False).name == "of-config"


def test_a_start_that_goes_on_keeps_the_id_and_is_noted(somewhere: Place) -> None:
    somewhere.open(name="kept").close()
    again = somewhere.open(name="other", mode="resume")
    identity = json.loads(somewhere.read("identity.json") or b"")
    assert again.id == identity["id"]
    assert again.name == "kept"
    assert [start["mode"] for start in identity["starts"]] == ["new", "resume"]
    assert all(start["pid"] == os.getpid() for start in identity["starts"])


def test_d2_the_hash_has_eight_digits_and_a_changed_tree_is_marked(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    clean = code_version(repository)
    assert (clean.hash, clean.dirty, str(clean)) == (head[:8], False, head[:8])
    (repository / "output.txt").write_text("not tracked")
    assert not code_version(repository).dirty
    (repository / "train.py").write_text("print('changed')\n")
    git(repository, "checkout", "--quiet", "--detach")  # the commit counts, not what branch it is on
    dirty = code_version(repository)
    assert (dirty.hash, str(dirty)) == (head[:8], f"{head[:8]}-dirty")


def test_d1_b17_outside_of_a_repository_it_is_unknown(tmp_path: Path) -> None:
    assert code_version(tmp_path) == CodeVersion("unknown")
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "--quiet")
    assert code_version(tmp_path / "new") == CodeVersion("unknown")  # nothing was committed yet


def test_d1_b17_without_git_and_with_one_that_hangs_it_is_unknown(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert code_version(repository).hash == "unknown"
    (tmp_path / "bin").mkdir()
    hanging = tmp_path / "bin" / "git"
    hanging.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(1000)\n")
    hanging.chmod(0o755)
    monkeypatch.setattr("asyncckpt.revision.PATIENCE", 0.2)
    began = time.monotonic()
    assert code_version(repository).hash == "unknown"
    assert time.monotonic() - began < 60  # not 1000


def test_b17_git_is_asked_for_nothing_that_takes_a_lock(repository: Path) -> None:
    head, index = git(repository, "rev-parse", "HEAD")[:8], repository / ".git" / "index"
    os.utime(repository / "train.py", (1, 1))  # the same content: left to itself, git notes that in its index
    before = index.read_bytes()
    assert str(code_version(repository)) == head
    assert index.read_bytes() == before
    (repository / ".git" / "index.lock").touch()
    assert str(code_version(repository)) == head


def test_b17_a_tree_whose_state_cannot_be_had_is_not_called_clean(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, real = git(repository, "rev-parse", "HEAD")[:8], shutil.which("git")
    (tmp_path / "bin").mkdir()
    half = tmp_path / "bin" / "git"
    half.write_text(f'#!/bin/sh\ncase "$*" in *status*) exit 1;; esac\nexec {real} "$@"\n')
    half.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert str(code_version(repository)) == f"{head}-dirty"


def test_b17_d6_every_checkpoint_carries_the_version_that_made_it(
    somewhere: Place, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(repository / "train.py"), raising=False)
    with somewhere.open() as run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
        ckpt.save(1)
    (repository / "train.py").write_text("print('changed')\n")
    with somewhere.open(mode="resume") as run, AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
        state = ckpt.resume()
        ckpt.save(2)
    head = git(repository, "rev-parse", "HEAD")[:8]
    found = [load(somewhere.root, step, storage_options=somewhere.options).info.code_version for step in (1, 2)]
    assert found == [head, f"{head}-dirty"]
    assert state is not None
    assert state.code_version == head
