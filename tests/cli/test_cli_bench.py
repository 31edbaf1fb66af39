"""``bench``: numbers of this machine and a root, and nothing left there, however it ends."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from asyncckpt.cli import bench_measures
from asyncckpt.cli.amount import amount
from asyncckpt.cli.app import app
from asyncckpt.cli.bench_measures import Forecast
from asyncckpt.cli.rates import Rate
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import ObjectInfo, Parts, PutMode

from .conftest import Document, Run, Saved, train, tree

if TYPE_CHECKING:
    from asyncckpt.testing.s3server import S3Server

MEASURED = ["copy", "write", "read", "small_write", "small_read", "list", "save", "check", "state"]
SMALL = ("--size", "2MiB")


def test_a_folder_that_is_not_there_is_measured_and_left_as_it_was(document: Document, tmp_path: Path) -> None:
    found = document("bench", tmp_path / "a" / "run", *SMALL, "--state", "1GiB")
    assert list(found) == ["schema", "root", *MEASURED, "notes"]
    assert found["schema"] == 1
    assert all(
        found[name]["rate"] > 0 and found[name]["bytes"] >= 2 << 20 for name in ("copy", "write", "read", "check")
    )
    assert all(found[name]["seconds"] > 0 for name in ("small_write", "small_read", "list"))
    assert found["save"]["bytes"] == 2 << 20
    assert len(found["save"]["seconds"]) == 2
    assert found["state"]["bytes"] == 1 << 30
    assert found["state"]["durable"] >= found["state"]["staged"] > 0
    assert list(tmp_path.iterdir()) == []


def test_for_people_it_is_a_line_each_and_without_a_root_only_memory(run: Run, tmp_path: Path) -> None:
    done = run("bench", tmp_path, *SMALL)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("note")]
    assert [line[:13].strip().replace(" ", "_") for line in lines] == MEASURED
    assert "staged in " in lines[-1]
    assert "durable in " in lines[-1]
    done = run("bench", *SMALL)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["copy", "state"]
    assert "durable" not in done.stdout


def test_beside_a_run_nothing_of_it_changes(run: Run, saved: Saved) -> None:
    before = {path: seen for path, seen in tree(saved.root).items() if Path(path).is_file()}
    assert run("bench", saved, *SMALL).exit_code == 0
    assert {path: seen for path, seen in tree(saved.root).items() if Path(path).is_file()} == before
    assert not (saved.root / "user").exists()


class Pressed(LocalStorage):
    """Ctrl-C while the put of a key that begins so is under way, or behind it."""

    at = ""
    was_pressed = False

    async def put(
        self, key: str, parts: Parts, *, length: int | None = None, mode: PutMode = "overwrite"
    ) -> ObjectInfo:
        done = await super().put(key, parts, length=length, mode=mode)
        if key.startswith(self.at) and not Pressed.was_pressed:
            Pressed.was_pressed = True
            signal.raise_signal(signal.SIGINT)
        return done


@pytest.mark.parametrize("at", ["data/large", "data/small-7", "data/00000004-", "commits/"])
def test_after_ctrl_c_nothing_is_left(at: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Pressed, "at", at)
    monkeypatch.setattr(Pressed, "was_pressed", False)
    monkeypatch.setattr(bench_measures, "from_url", Pressed)
    done = run("bench", tmp_path / "run", *SMALL)
    assert Pressed.was_pressed
    assert done.exit_code == 130
    assert "durable in" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_said_before_anything_is_written(run: Run, saved: Saved, tmp_path: Path) -> None:
    for arguments, said in (
        ((f"{saved}@10",), "leave out the @"),
        ((saved, "--size", "0"), "give bytes"),
        ((saved, "--size", "4000TiB"), "in memory"),
        ((saved, "--size", "4000TB"), "left: give a smaller one"),
    ):
        done = run("bench", *arguments)
        assert done.exit_code == 2
        assert said in done.stderr
    (tmp_path / "file").write_text("")
    done = run("bench", tmp_path / "file", *SMALL)
    assert done.exit_code == 4
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("5", 5), ("1.5k", 1500), ("5GB", 5 * 10**9), ("512MiB", 512 << 20), ("2 TiB", 2 << 40), ("3tb", 3 * 10**12)],
)
def test_sizes_are_given_as_people_write_them(text: str, nbytes: int) -> None:
    assert amount(click.Context(app), click.Option(["--size"]), text) == nbytes


def test_a_forecast_counts_what_every_save_takes_once() -> None:
    forecast = Forecast(Rate(1000, 0.5), least=1.0, saves=[Rate(100, 2.0), Rate(100, 4.0)], check=Rate(100, 1.0))
    # 100 bytes take 3 s, 1 s of it for the least: 50 in a second beyond that.
    assert forecast.of(1000).json == {"bytes": 1000, "staged": 0.5, "durable": 1.0 + 20.0, "read": 10.0}
    # Nothing is durable before it is staged.
    slow = Forecast(Rate(10, 1.0), least=1.0, saves=[Rate(100, 2.0)], check=Rate(100, 1.0))
    assert slow.of(1000).json["durable"] == 100.0
    # Saves that took no longer than the least were held up by something else.
    odd = Forecast(Rate(1000, 0.5), least=9.0, saves=[Rate(100, 4.0)], check=Rate(100, 1.0))
    assert odd.of(100).json["durable"] == 9.0 + 2.0


def test_a_bucket_with_a_run_is_measured_and_left_as_it_was(document: Document, bucket: str, s3: S3Server) -> None:
    train(bucket)
    before = s3.stored(bucket)
    found = document("bench", bucket, *SMALL)
    assert [name for name in MEASURED if name in found] == MEASURED
    assert s3.stored(bucket) == before
