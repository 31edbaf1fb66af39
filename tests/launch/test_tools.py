"""E37 to E40: errors, logs, the project, outcomes."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import asyncckpt.errors
from asyncckpt.errors import AsyncCkptError, ConfigurationError
from asyncckpt.launch.logs import get_logger, setup_logging
from asyncckpt.launch.outcome import Error, Result, Success
from asyncckpt.launch.project import ensure_directory_exists, get_project_root, validate_project_structure

# -- E37 ---------------------------------------------------------------------------------------------------


def test_e37_every_error_is_in_the_tree_that_its_module_draws() -> None:
    for name, kind in vars(asyncckpt.errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == "asyncckpt.errors":
            assert issubclass(kind, AsyncCkptError)
            assert name in (asyncckpt.errors.__doc__ or "") or name == "RanksDiffer"
    assert issubclass(asyncckpt.errors.JobSubmissionError, asyncckpt.errors.SLURMError)
    assert issubclass(asyncckpt.errors.ValidationError, ConfigurationError)


# -- E38 ---------------------------------------------------------------------------------------------------


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which is afterwards as it was."""
    logger = logging.getLogger()
    before, level = list(logger.handlers), logger.level
    yield logger
    for handler in [each for each in logger.handlers if each not in before]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def test_e38_records_are_shown_once_however_often_it_is_set_up(
    root: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    foreign = logging.StreamHandler(stream)
    root.addHandler(foreign)
    path = tmp_path / "made" / "on the way" / "training.log"
    for _ in range(3):
        setup_logging("debug", str(path))
    get_logger("mine").debug("a detail, ß")
    assert capsys.readouterr().err.count("a detail") == 1
    (line,) = path.read_text("utf-8").splitlines()
    datetime.fromisoformat(line[: -len(" DEBUG mine: a detail, ß")])
    assert line.endswith(" DEBUG mine: a detail, ß")
    assert stream.getvalue().count("a detail") == 1
    setup_logging(logging.WARNING)
    get_logger("mine").info("not shown")
    get_logger("mine").warning("shown")
    assert capsys.readouterr().err.count("shown") == 1
    assert "shown" not in path.read_text("utf-8")
    assert foreign in root.handlers
    assert get_logger("mine") is logging.getLogger("mine")


def test_e38_a_second_start_adds_to_the_file(root: logging.Logger, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("from before\n")
    setup_logging(log_file=tmp_path / "a.log")
    get_logger("mine").info("now")
    assert (tmp_path / "a.log").read_text().startswith("from before\n")


def test_e38_a_level_may_be_any_number_from_0_on(root: logging.Logger) -> None:
    for level in (0, 15):
        setup_logging(level)
        assert root.level == level


@pytest.mark.parametrize("level", ["LOUD", "", -1, True, None])
def test_e38_a_level_that_is_none_changes_nothing(root: logging.Logger, tmp_path: Path, level: Any) -> None:
    before = list(root.handlers)
    with pytest.raises(ConfigurationError, match="use one of CRITICAL"):
        setup_logging(level, tmp_path / "a.log")
    assert root.handlers == before
    assert list(tmp_path.iterdir()) == []


def test_e38_a_file_that_cannot_be_written_changes_nothing(root: logging.Logger, tmp_path: Path) -> None:
    before = list(root.handlers)
    with pytest.raises(OSError, match="Is a directory"):
        setup_logging(log_file=tmp_path)
    assert root.handlers == before


# -- E39 ---------------------------------------------------------------------------------------------------


def test_e39_the_root_is_the_nearest_folder_with_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = ensure_directory_exists(tmp_path / "outer" / "inner" / "deep")
    (tmp_path / "outer" / "pyproject.toml").touch()
    assert get_project_root(inner) == get_project_root(str(inner)) == (tmp_path / "outer").resolve()
    (tmp_path / "outer" / "inner" / ".git").mkdir()
    monkeypatch.chdir(inner)
    assert get_project_root() == get_project_root("../deep") == (tmp_path / "outer" / "inner").resolve()
    (inner / "setup.py").touch()
    assert get_project_root() == get_project_root(".") == inner.resolve()
    with pytest.raises(ConfigurationError, match=r"no folder from .* upwards holds nothing\.of\.this"):
        get_project_root(inner, ["nothing.of.this"])


def test_e39_a_structure_is_true_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert validate_project_structure(tmp_path).issues == (
        f"{tmp_path / 'configs'} is not there, and configurations are looked for there",
    )
    assert not validate_project_structure(tmp_path)
    assert list(tmp_path.iterdir()) == []
    ensure_directory_exists(tmp_path / "configs")
    assert validate_project_structure(str(tmp_path))
    assert validate_project_structure(tmp_path, "other").issues == (
        f"{tmp_path / 'other'} is not there, and configurations are looked for there",
    )
    assert validate_project_structure(tmp_path / "nowhere").issues == (f"{tmp_path / 'nowhere'} is not there",)
    (tmp_path / "file").touch()
    assert validate_project_structure(tmp_path / "file").issues == (f"{tmp_path / 'file'} is no folder",)


def test_e39_every_issue_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access  # root, as which tests may run, may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    assert validate_project_structure(tmp_path).issues == (
        f"{tmp_path} cannot be written to, and outputs go there",
        f"{tmp_path / 'configs'} is not there, and configurations are looked for there",
    )


def test_e39_a_folder_is_there_afterwards_and_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    for _ in range(2):
        assert ensure_directory_exists(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is no folder; move it away"):
        ensure_directory_exists(tmp_path / "file")


# -- E40 ---------------------------------------------------------------------------------------------------


def divided(number: int, by: int) -> Result[float, str]:
    return Error("by nothing") if by == 0 else Success(number / by)


def test_e40_either_side_is_known_by_its_class() -> None:
    good, bad = divided(1, 2), divided(1, 0)
    assert isinstance(good, Success)
    assert isinstance(bad, Error)
    assert (good.value, good.unwrap(), good.unwrap_or(9)) == (0.5, 0.5, 0.5)
    assert (bad.error, bad.unwrap_or(9)) == ("by nothing", 9)
    assert good.map(lambda value: value * 4).map_error(len) == Success(2.0)
    assert bad.map(lambda value: value * 4).map_error(len) == Error(10)
    match divided(1, 0):
        case Error(error):
            assert error == "by nothing"


@pytest.mark.parametrize("nothing", [None, False, 0, "", ()])
def test_e40_nothing_is_a_value_and_a_reason_too(nothing: object) -> None:
    assert Success(nothing).unwrap() is nothing
    assert Success(nothing).unwrap_or("other") is nothing
    assert Error(nothing).error is nothing
    assert Error(nothing).unwrap_or(nothing) is nothing


def test_e40_the_wrong_side_is_an_error() -> None:
    cause = OSError("gone")
    with pytest.raises(ValueError, match=r"Success\(value=1\) has no error"):
        _ = Success(1).error
    for call in (lambda: Error(cause).value, lambda: Error(cause).unwrap()):
        with pytest.raises(ValueError, match="has no value") as raised:
            call()
        assert raised.value.__cause__ is cause
    with pytest.raises(ValueError, match=r"Error\(error='gone'\) has no value") as raised:
        Error("gone").unwrap()
    assert raised.value.__cause__ is None


def test_the_tools_are_had_without_torch_and_e38_a_log_is_utf_8_wherever_it_is_written(tmp_path: Path) -> None:
    program = "import sys, asyncckpt.launch as a; a.Success, a.setup_logging, a.GitManager, a.ModelTrainingFramework"
    program += "; assert 'torch' not in sys.modules"
    program += "; a.setup_logging(log_file=sys.argv[1]); a.get_logger('mine').info('n\\xfctzlich')"
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "a.log")]
    without = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run(command, check=True, timeout=60, env={**os.environ, **without})
    assert "INFO mine: nützlich\n" in (tmp_path / "a.log").read_text("utf-8")
