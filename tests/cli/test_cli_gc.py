"""``gc``: what no checkpoint needs goes, beside a training and without one, and nothing else does."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from asyncckpt import AsyncCheckpointer, load
from asyncckpt.errors import Fenced, SaveFailed
from asyncckpt.format.names import DataDirectory

from .conftest import Document, Run, Saved, flip, train, tree

if TYPE_CHECKING:
    from asyncckpt.testing.s3server import IgnoringServer, S3Server

PROBE = "user/probe-0123456789abcdef"


def leave(root: Path, seq: int, inc: int, step: int = 99) -> Path:
    """Leave what a save of incarnation `inc` had written when it ended; returns the folder."""
    directory = DataDirectory(seq, step, inc, "0123abcd")
    for key in (directory.pack(0, 1, 0), directory.report(0, 1)):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(b"left over")
    return root / directory.key


def put(root: Path, key: str) -> Path:
    (root / key).parent.mkdir(parents=True, exist_ok=True)
    (root / key).write_bytes(b"{}")
    return root / key


def values(root: Path | str) -> list[int]:
    return [int(load(root, step).info.step) for step in (10, 20, 30)]


class Training:
    """One that holds a run which it has resumed: incarnation 2."""

    def __init__(self, root: Path | str, **more: Any) -> None:
        self.model = torch.nn.Linear(2, 2)
        self.ckpt = AsyncCheckpointer(root, model=self.model, executor="thread", **more)
        self.ckpt.resume()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: object) -> None:
        self.ckpt.close()

    def save(self, step: int) -> None:
        self.model.weight.data.fill_(step)
        self.ckpt.save(step).wait()
        self.ckpt.wait()


def begun(root: Path | str) -> None:
    """Make a run of three checkpoints that `Training` can go on with."""
    with Training(root) as training:
        for step in (10, 20, 30):
            training.save(step)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    begun(tmp_path / "run")
    return tmp_path / "run"


# -- a run that nobody holds -----------------------------------------------------------------------------------


def test_without_yes_there_is_a_plan_with_reasons_and_nothing_goes(run: Run, saved: Saved) -> None:
    leave(saved.root, seq=9, inc=1)
    leave(saved.root, seq=2, inc=1, step=20)
    put(saved.root, f"{PROBE}/data/large")
    put(saved.root, "user/00000002-tag-61.json")
    put(saved.root, "user/00000001-tag-62.json")
    put(saved.root, "user/00000000-pin.json")
    before = tree(saved.root)
    done = run("gc", saved, "--alone")
    assert done.exit_code == 0
    assert [re.split("  +", line) for line in done.stdout.splitlines()[1:-1]] == [
        ["data/00000002-step-20-i1-0123abcd", "2", "18 B", "step 20 of incarnation 1: no listed checkpoint needs it"],
        ["data/00000009-step-99-i1-0123abcd", "2", "18 B", "step 99 of incarnation 1: its save came to no commit"],
        ["user", "1", "2 B", "said of a checkpoint that is gone"],
        ["user/probe-0123456789abcdef/data", "1", "2 B", "left by a doctor or a bench that was killed"],
    ]
    assert done.stdout.splitlines()[-1] == "6 objects to remove, 40 B to free"
    assert done.stderr == "nothing was removed: --yes removes it\n"
    assert tree(saved.root) == before


def test_one_is_one(run: Run, saved: Saved) -> None:
    put(saved.root, "user/00000000-pin.json")
    assert run("gc", saved).stdout.splitlines()[-1] == "1 object to remove, 2 B to free"
    assert run("gc", saved, "--yes").stdout.splitlines()[-1] == "removed 1 object or upload, freed 2 B"


def test_with_yes_it_goes_and_every_checkpoint_stays_whole(run: Run, document: Document, saved: Saved) -> None:
    before = {path for path in tree(saved.root) if Path(path).is_file()}
    left = [leave(saved.root, seq=9, inc=1), leave(saved.root, seq=2, inc=1), put(saved.root, PROBE)]
    told = document("gc", saved, "--alone", "--yes")
    assert told["schema"] == 1
    assert told["done"].startswith("removed 5 objects and uploads, freed 38 B")
    assert {entry["key"].split("/")[0] for entry in told["remove"]} == {"data", "user"}
    assert told["bytes"] == sum(entry["bytes"] for entry in told["remove"]) == 38
    assert not any(path.exists() for path in left)
    assert {path for path in tree(saved.root) if Path(path).is_file()} == before
    assert run("verify", saved).exit_code == 0
    assert run("gc", saved, "--alone", "--yes").stdout == "nothing to remove\n"


def test_unfinished_puts_and_empty_folders_go(run: Run, saved: Saved) -> None:
    folder = leave(saved.root, seq=9, inc=1)
    draft = put(folder, ".0123456789abcdef.tmp-manifest.json")
    empty = saved.root / DataDirectory(8, 8, 1, "0123abcd").key
    empty.mkdir()
    said = run("gc", saved, "--alone").stdout
    assert "an unfinished put" in said
    assert "an empty folder" in said
    assert "2 objects and 2 unfinished uploads to remove" in said
    run("gc", saved, "--alone", "--yes")
    assert not any(path.exists() for path in (draft, folder, empty))


def test_what_has_a_name_of_somebody_else_is_told_and_stays(run: Run, document: Document, saved: Saved) -> None:
    foreign = [put(saved.root, "data/notes.json"), put(saved.root, "user/todo.txt")]
    done = run("gc", saved, "--alone", "--yes")
    assert "not ours to place, and stays: data/notes.json\n" in done.stderr
    assert all(path.exists() for path in foreign)
    assert document("gc", saved)["unknown"] == ["data/notes.json", "user/todo.txt"]


def test_where_a_record_is_lost_no_data_goes(run: Run, saved: Saved) -> None:
    left = leave(saved.root, seq=9, inc=1)
    flip(saved.record(1), 40)
    assert (
        "a commit record is lost, and may be all that names good data: data stays" in run("gc", saved, "--yes").stderr
    )
    assert left.exists()


def test_what_a_training_that_begins_may_need_stays_unless_none_does(run: Run, root: Path) -> None:
    with Training(root):
        pass
    earlier = leave(root, seq=2, inc=1)
    last = [leave(root, seq=3, inc=2), leave(root, seq=9, inc=1)]
    done = run("gc", root, "--yes")
    assert "what is left of incarnation 2, the last, stays, and what another tier may be bringing" in done.stderr
    assert not earlier.exists()
    assert all(path.exists() for path in last)
    run("gc", root, "--alone", "--yes")
    assert not any(path.exists() for path in last)
    assert values(root) == [10, 20, 30]


def test_a_root_without_a_run_has_nothing_to_remove(run: Run, document: Document, tmp_path: Path) -> None:
    done = run("gc", tmp_path, "--yes")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"{tmp_path} holds no run\n")
    assert document("gc", tmp_path)["remove"] == []
    assert "leave out the @" in run("gc", f"{tmp_path}@1").output


# -- beside a training -----------------------------------------------------------------------------------------


def test_beside_a_training_only_what_earlier_ones_left_goes(run: Run, root: Path) -> None:
    with Training(root) as training:
        earlier = leave(root, seq=2, inc=1)
        staying = [
            leave(root, seq=3, inc=2),  # its own
            leave(root, seq=9, inc=1),  # newer than all that is listed: maybe on its way from another tier
            put(root, f"{DataDirectory(9, 99, 1, '0123abcd').key}/.0123456789abcdef.tmp-manifest.json"),
            put(root, "user/00000007-pin.json"),  # of a save that is on its way
            put(root, "commits/.0123456789abcdef.tmp-latest"),
            put(root, ".0123456789abcdef.tmp-latest"),  # a hint that is being written
        ]
        for more in ((), ("--alone",)):  # which nobody can say of a run that is held
            done = run("gc", root, "--yes", *more)
            assert "may be saving here: what belongs to it stays; if it is dead, --take-over" in done.stderr
            assert not earlier.exists()
            assert [path for path in staying if not path.exists()] == []
        training.save(50)
    assert load(root, 50).state["model"]["weight"].min().item() == 50
    assert values(root) == [10, 20, 30]


def test_records_that_list_nothing_go_and_those_that_count_stay(run: Run, document: Document, root: Path) -> None:
    with Training(root) as training:
        training.save(40)
        stale = put(root, "commits/0000000001.json")  # the record that opened the run, as if its deletion had failed
        told = document("gc", root, "--yes")
        assert {entry["key"] for entry in told["remove"]} >= {"commits/0000000001.json"}
        assert told["remove"][-1]["why"] == "records that list nothing any more"
        assert not stale.exists()
        training.save(50)
    assert values(root) == [10, 20, 30]


def test_a_training_that_is_taken_over_is_stopped_and_what_it_left_goes(run: Run, root: Path) -> None:
    training = Training(root)
    training.save(40)
    left = leave(root, seq=9, inc=2)
    assert left.exists()
    done = run("gc", root, "--take-over", "--yes")
    assert "took the run over from process" in done.stdout
    assert "and removed" in done.stdout
    assert not left.exists()
    with pytest.raises(SaveFailed) as failed:
        training.save(50)
    assert isinstance(failed.value.__cause__, Fenced)
    training.ckpt.close()
    # Its record took the slot that the closing one had left free, and counts for nothing.
    assert "step 50 of incarnation 2: its save came to no commit" in run("gc", root, "--alone", "--yes").stdout
    assert run("gc", root, "--alone").stdout == "nothing to remove\n"
    assert values(root) == [10, 20, 30]


# -- object stores ---------------------------------------------------------------------------------------------


def test_in_a_bucket_our_unfinished_uploads_go_and_those_of_others_stay(
    run: Run, document: Document, bucket: str, s3: S3Server
) -> None:
    train(bucket)
    objects, _ = s3.stored(bucket)
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    ours, theirs = DataDirectory(9, 99, 1, "0123abcd"), f"{prefix}/films/holiday.mp4"
    with closing(s3.client()) as client:
        for key in (f"{prefix}/{ours.pack(0, 1, 0)}", theirs):
            client.create_multipart_upload(Bucket=name, Key=key)
        client.put_object(Bucket=name, Key=f"{prefix}/{ours.report(0, 1)}", Body=b"left over")
    told = document("gc", bucket, "--alone")
    assert [(entry["key"], entry["bytes"]) for entry in told["remove"]] == [
        (ours.report(0, 1), 9),
        (ours.pack(0, 1, 0), None),
    ]
    done = run("gc", bucket, "--alone", "--yes")
    assert "removed 2 objects and uploads" in done.stdout
    assert "not ours to place, and stays: the unfinished put of films/holiday.mp4" in done.stderr
    assert s3.stored(bucket) == (objects, [theirs])
    assert run("verify", bucket, "--quick").exit_code == 0


def test_where_nothing_is_created_exclusively_a_training_goes_on_beside_it(
    run: Run, ignoring: IgnoringServer, ignoring_bucket: str
) -> None:
    root = ignoring_bucket
    begun(root)
    with Training(root) as training:
        training.save(40)
        name, _, prefix = root.removeprefix("s3://").partition("/")
        left = DataDirectory(2, 20, 1, "0123abcd").report(0, 1)
        with closing(ignoring.client()) as client:
            client.put_object(Bucket=name, Key=f"{prefix}/{left}", Body=b"left over")
        assert run("gc", root, "--yes").exit_code == 0
        assert left not in ignoring.stored(root)[0]
        training.save(50)
    assert run("gc", root, "--yes").exit_code == 0
    assert values(root) == [10, 20, 30]
    with Training(root) as training:
        training.save(60)
    assert load(root).info.step == 60
