"""E1, E2: a project from which experiments are launched, here and on paper; on a cluster: ``test_slurm_real``."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncckpt.errors import ConfigurationError, ValidationError
from asyncckpt.launch import (
    ConfigurationManager,
    ExecutionMode,
    GridSearchResult,
    ModelTrainingFramework,
    NamingStrategy,
    ParameterGrid,
    SLURMLauncher,
)
from asyncckpt.launch.config import experiment


@pytest.fixture
def framework(tmp_path: Path, least: dict[str, Any]) -> ModelTrainingFramework:
    """Of a project with a configuration ``base.yaml``."""
    found = ModelTrainingFramework(tmp_path)
    found.get_config_manager().save_config(least, "configs/base.yaml")
    return found


def seeds(count: int) -> list[ParameterGrid]:
    grid = ParameterGrid("seeds")
    grid.add_parameter("seed", list(range(count)))
    return [grid]


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def local(framework: ModelTrainingFramework, count: int, program: str, **given: Any) -> GridSearchResult:
    """A search whose experiments run `program`, with their configuration's values as `c`, and how many as `count`."""
    text = f"import json, os, sys, time, pathlib, yaml; c = yaml.safe_load(open(sys.argv[1])); count = {count}\n"
    command = [sys.executable, "-c", text + textwrap.dedent(program), "{config}", "{output_dir}", "{name}"]
    return framework.run_grid_search(
        seeds(count), base_config_path="base.yaml", execution_mode=ExecutionMode.LOCAL, command=command,
        naming=NamingStrategy.SEQUENTIAL, **given,
    )  # fmt: skip


# -- E1 ----------------------------------------------------------------------------------------------------


def test_e1_the_parts_of_a_project(tmp_path: Path, framework: ModelTrainingFramework) -> None:
    assert isinstance(framework.get_config_manager(), ConfigurationManager)
    assert framework.get_config_manager().load_config("base.yaml")["experiment_name"] == "tiny"
    other = ModelTrainingFramework(str(tmp_path), config_dir="elsewhere", slurm_template_path="job.sh")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.json").write_text('{"a": 1}')
    assert other.get_config_manager().load_config("a.json", validate=False) == {"a": 1}
    (tmp_path / "job.sh").write_text("#!/bin/sh\nexec python train.py {{config_path}}\n")
    assert isinstance(other.get_slurm_launcher(), SLURMLauncher)


def test_e1_without_a_template_there_is_no_launcher_and_all_else_works(
    tmp_path: Path, framework: ModelTrainingFramework
) -> None:
    with pytest.raises(ConfigurationError, match=r"made of a template: .*slurm_template_path="):
        framework.get_slurm_launcher()
    with pytest.raises(ConfigurationError, match="made of a template"):
        framework.run_grid_search(seeds(1), "base.yaml")
    assert everything(tmp_path) == ["configs/base.yaml"]
    assert local(framework, 1, "").submitted == 1


# -- E2 ----------------------------------------------------------------------------------------------------


def test_e2_there_is_one_base_and_it_may_be_anything(framework: ModelTrainingFramework, least: dict[str, Any]) -> None:
    def names(*given: Any, **more: Any) -> list[str]:
        found = framework.run_grid_search(seeds(2), *given, execution_mode=ExecutionMode.DRY_RUN, **more)
        return [each.name for each in found.outcomes]

    expected = names("base.yaml")
    assert names(least) == names(base_config_path=Path("base.yaml")) == names(base_config=Path("base.yaml")) == expected
    assert names(framework.get_config_manager().load_experiment("base.yaml")) == expected
    for given in ({"base_config": least, "base_config_path": "base.yaml"}, {}):
        with pytest.raises(ConfigurationError, match="takes one base"):
            names(**given)


@pytest.mark.parametrize("has_template", [True, False])
def test_e2_a_dry_run_touches_nothing_but_its_output(
    tmp_path: Path, framework: ModelTrainingFramework, monkeypatch: pytest.MonkeyPatch, has_template: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    scripts = []
    if has_template:
        (tmp_path / "job.sh").write_text("#!/bin/sh\nexec python train.py {{config_path}}\n")
        framework = ModelTrainingFramework(tmp_path, slurm_template_path="job.sh")
        scripts = ["tiny_0001/job.sh", "tiny_0002/job.sh"]
    before = everything(tmp_path)
    found = framework.run_grid_search(
        seeds(2), "base.yaml", None, ExecutionMode.DRY_RUN, tmp_path / "out", naming=NamingStrategy.SEQUENTIAL
    )
    assert [each.state for each in found.outcomes] == ["planned", "planned"]
    assert (found.total, found.submitted, dict(found.failed), found.success_rate) == (2, 0, {}, 1.0)
    written = ["grid_search.csv", "grid_search.json", "tiny_0001/config.yaml", "tiny_0002/config.yaml", *scripts]
    assert everything(tmp_path) == sorted([*before, *(f"out/{name}" for name in written)])
    assert framework.get_config_manager().load_experiment("out/tiny_0002/config.yaml").seed == 1
    values = {
        "CONFIG_PATH": tmp_path / "out/tiny_0002/config.yaml", "EXPERIMENT_NAME": "tiny_0002", "JOB_NAME": "tiny_0002",
        "OUTPUT_DIR": tmp_path / "out/tiny_0002", "PROJECT_ROOT": tmp_path,
    }  # fmt: skip
    for script in scripts[1:]:
        said = (tmp_path / "out" / script).read_text()
        assert re.findall(r"export ASYNCCKPT_(\w+)=(.*)", said) == [
            (name, str(value)) for name, value in values.items()
        ]


def test_e2_all_run_and_the_one_that_fails_says_why(tmp_path: Path, framework: ModelTrainingFramework) -> None:
    found = local(
        framework,
        4,
        """
        print("seed", c["seed"], sys.argv[3], pathlib.Path.cwd().name)
        pathlib.Path(sys.argv[2], "result").write_text(str(c["seed"]))
        if c["seed"] == 1:
            sys.exit("there is no data")
        if c["seed"] == 2:
            os.kill(os.getpid(), 9)
        """,
        output_dir="out",
    )
    assert [each.state for each in found.outcomes] == ["completed", "failed", "failed", "completed"]
    assert found.failed["tiny_0002"] == "exit status 1: there is no data"
    assert found.failed["tiny_0003"].startswith("killed by SIGKILL")
    assert (found.total, found.submitted, found.success_rate) == (4, 2, 0.5)
    assert [(tmp_path / "out" / each.name / "result").read_text() for each in found.outcomes] == ["0", "1", "2", "3"]
    assert (tmp_path / "out/tiny_0004/output.log").read_text() == f"seed 3 tiny_0004 {tmp_path.name}\n"
    said = json.loads((tmp_path / "out/grid_search.json").read_text())
    assert (said["total"], said["submitted"], said["failed"], said["success_rate"]) == (4, 2, 2, 0.5)
    assert said["experiments"][1]["reason"] == "exit status 1: there is no data"
    assert said["experiments"][3]["parameters"] == {"seed": 3}
    assert said["seconds"] >= max(each.seconds or 0 for each in found.outcomes) > 0
    with (tmp_path / "out/grid_search.csv").open(newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]


def test_e2_a_reason_is_of_the_last_start_and_not_of_one_before(framework: ModelTrainingFramework) -> None:
    command = [sys.executable, "-c", "import sys, os; sys.exit('there is no data' if sys.argv[1] == '1' else 1)"]

    def reason(number: str) -> str:
        found = framework.run_grid_search(
            seeds(1), "base.yaml", execution_mode=ExecutionMode.LOCAL, command=[*command, number]
        )
        return next(iter(found.failed.values()))

    assert [reason(number) for number in "12"] == ["exit status 1: there is no data", "exit status 1"]


def test_e2_a_word_that_no_program_can_be_given_is_a_reason(framework: ModelTrainingFramework) -> None:
    found = framework.run_grid_search(
        seeds(2), "base.yaml", execution_mode=ExecutionMode.LOCAL, command=[sys.executable, "-c", "a\0b"]
    )
    assert list(found.failed.values()) == ["could not be run: embedded null byte"] * 2


def test_e2_what_is_in_the_way_of_a_folder_is_a_reason(tmp_path: Path, framework: ModelTrainingFramework) -> None:
    first, second = framework.run_grid_search(
        seeds(2), "base.yaml", execution_mode=ExecutionMode.DRY_RUN, output_dir="planned"
    ).outcomes
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / first.name).touch()
    for mode in (ExecutionMode.LOCAL, ExecutionMode.DRY_RUN):
        found = framework.run_grid_search(
            seeds(2), "base.yaml", execution_mode=mode, output_dir="out", command=[sys.executable, "-c", ""]
        )
        assert [*found.failed] == [first.name]
        assert first.name in found.failed[first.name]
        assert [each.name for each in found.outcomes] == [first.name, second.name]


def test_e2_an_experiment_with_values_that_files_say_otherwise_goes_on(
    framework: ModelTrainingFramework, least: dict[str, Any]
) -> None:
    least["custom_params"] = {"pair": (1, 2), "path": Path("a/b"), "scalar": np.float32(0.1), "text": "${x}"}
    base = experiment(least)
    for _ in range(2):
        found = framework.run_grid_search(
            seeds(1), base, execution_mode=ExecutionMode.LOCAL, command=[sys.executable, "-c", ""]
        )
        assert dict(found.failed) == {}


def test_e2_what_came_from_the_environment_is_in_no_file(
    tmp_path: Path, framework: ModelTrainingFramework, monkeypatch: pytest.MonkeyPatch, least: dict[str, Any]
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    least["custom_params"] = {"url": "https://me:${SECRET}@host"}
    framework.get_config_manager().save_config(least, "configs/base.yaml")
    grid = ParameterGrid("tokens")
    grid.add_parameter("custom_params.token", ["${SECRET}", "none"])
    program = """
from pathlib import Path
import sys
from asyncckpt.launch import ConfigurationManager
config = ConfigurationManager(".").load_experiment(sys.argv[1])
sys.exit(config.custom_params["token"] not in ("hunter2", "none") or "me:hunter2@" not in config.custom_params["url"])
"""
    found = framework.run_grid_search(
        [grid], "base.yaml", execution_mode=ExecutionMode.LOCAL, command=[sys.executable, "-c", program, "{config}"]
    )
    assert dict(found.failed) == {}
    for name in everything(tmp_path):
        assert "hunter2" not in (tmp_path / name).read_text()


def test_e2_a_program_that_is_not_there_is_a_reason(framework: ModelTrainingFramework) -> None:
    found = framework.run_grid_search(
        seeds(2), "base.yaml", execution_mode=ExecutionMode.LOCAL, command=["/nowhere/python", "{config}"]
    )
    assert all("could not be run: " in reason and "/nowhere/python" in reason for reason in found.failed.values())
    assert found.success_rate == 0.0
    with pytest.raises(ConfigurationError, match="LOCAL needs the command"):
        framework.run_grid_search(seeds(1), "base.yaml", execution_mode=ExecutionMode.LOCAL)


ALONE = """
import subprocess
mark = pathlib.Path("running")
mark.touch(exist_ok=False)      # fails where another one runs
with open("order", "a") as file:
    print(c["seed"], file=file)
subprocess.run([sys.executable, "-c", ""], check=True)      # long enough for another one to have begun, if it may
mark.unlink()
"""

TOGETHER = """
pathlib.Path(f"began{c['seed']}").touch()
deadline = time.monotonic() + 60
while sum(pathlib.Path(f"began{n}").exists() for n in range(count)) < count:
    assert time.monotonic() < deadline, "the others do not begin"
    time.sleep(0.01)
"""


@pytest.mark.parametrize("limit", [1, None])
def test_e2_with_a_limit_of_one_each_waits_for_the_one_before_and_none_is_dropped(
    tmp_path: Path, framework: ModelTrainingFramework, limit: int | None
) -> None:
    found = local(framework, 5, ALONE, max_concurrent_jobs=limit)
    assert dict(found.failed) == {}
    assert (tmp_path / "order").read_text().split() == ["0", "1", "2", "3", "4"]


def test_e2_with_a_limit_of_three_three_run_at_once(framework: ModelTrainingFramework) -> None:
    assert dict(local(framework, 3, TOGETHER, max_concurrent_jobs=3).failed) == {}


def test_e2_nothing_is_launched_where_a_combination_cannot_be(
    tmp_path: Path, framework: ModelTrainingFramework
) -> None:
    grid = ParameterGrid("rates")
    grid.add_parameter("training.learning_rate", [0.1, -1, 0.2, -2])
    with pytest.raises(ValidationError) as raised:
        framework.run_grid_search(
            [grid], "base.yaml", execution_mode=ExecutionMode.LOCAL, command=["true"], naming=NamingStrategy.SEQUENTIAL
        )
    assert list(raised.value.problems) == ["tiny_0002", "tiny_0004"]
    assert "nothing was launched:\nexperiment tiny_0002 of grid rates" in str(raised.value)
    assert everything(tmp_path) == ["configs/base.yaml"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_concurrent_jobs": 0}, "max_concurrent_jobs=0: use a whole number, 1 or more, or None"),
        ({"max_concurrent_jobs": "2"}, "max_concurrent_jobs='2': use a whole number"),
        ({"execution_mode": "cluster"}, "execution_mode='cluster': use ExecutionMode, or one of slurm, local, dry_run"),
        ({"naming": "by hand"}, "naming='by hand': use NamingStrategy, or one of hash"),
        ({"parameter_grids": seeds(1)[0]}, "parameter_grids is one grid: give a list of them"),
        ({"command": "python train.py {config}"}, "command is a text: give its words"),
    ],
)
def test_e2_what_a_search_cannot_be_told_is_refused_before_anything_is_made(
    tmp_path: Path, framework: ModelTrainingFramework, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        framework.run_grid_search(
            **{"parameter_grids": seeds(1), "base_config_path": "base.yaml", "command": ["true"], **given}
        )
    assert str(raised.value).startswith(said)
    assert everything(tmp_path) == ["configs/base.yaml"]


def test_e2_modes_and_strategies_may_be_words(framework: ModelTrainingFramework) -> None:
    given: Any = {"execution_mode": ExecutionMode.DRY_RUN.value, "naming": NamingStrategy.SEQUENTIAL.value}
    found = framework.run_grid_search(seeds(2), "base.yaml", **given)
    assert found.mode is ExecutionMode.DRY_RUN
    assert [each.name for each in found.outcomes] == ["tiny_0001", "tiny_0002"]


def test_e2_nothing_is_launched_whose_result_could_not_be_written(
    tmp_path: Path, framework: ModelTrainingFramework
) -> None:
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises((OSError, ConfigurationError), match="out"):
        local(framework, 1, "pathlib.Path('ran').touch()", output_dir="out")
    assert not (tmp_path / "ran").exists()


def test_e2_e11_a_second_search_goes_on_counting_and_keeps_the_files_of_the_first(
    tmp_path: Path, framework: ModelTrainingFramework
) -> None:
    local(framework, 2, "", output_dir="out")
    found = local(framework, 3, "", output_dir="out")
    # The combinations of the first are what they were, and go on; the last is new.
    assert [each.name for each in found.outcomes] == ["tiny_0001", "tiny_0002", "tiny_0003"]
    (tmp_path / "out/grid_search-0.json").write_text('{"experiments": [{"name": 1}, null]}')
    base = framework.get_config_manager().load_config("base.yaml")
    base["training"]["epochs"] = 2
    framework.get_config_manager().save_config(base, "configs/base.yaml")
    assert [each.name for each in local(framework, 1, "", output_dir="out").outcomes] == ["tiny_0004"]
    assert {"grid_search.json", "grid_search-2.json", "grid_search-2.csv"} < {
        p.name for p in (tmp_path / "out").iterdir()
    }


def test_e2_the_same_experiment_goes_on_and_another_of_its_name_is_not_run(
    tmp_path: Path, framework: ModelTrainingFramework, least: dict[str, Any]
) -> None:
    def run(base: Any) -> GridSearchResult:
        command = [sys.executable, "-c", "print('ran')"]
        return framework.run_grid_search(seeds(1), base, execution_mode=ExecutionMode.LOCAL, command=command)

    assert run(least).submitted == run(least).submitted == 1
    least["training"]["epochs"] = 99
    (reason,) = run(least).failed.values()
    assert "is there, of another experiment" in reason
    (log,) = (tmp_path / "experiments").glob("*/output.log")
    assert log.read_text() == "ran\nran\n"


def test_e2_no_grids_and_empty_ones_are_no_experiments(framework: ModelTrainingFramework) -> None:
    for grids in ([], [ParameterGrid("empty")]):
        found = framework.run_grid_search(grids, "base.yaml", execution_mode=ExecutionMode.DRY_RUN)
        assert (found.total, found.submitted, found.success_rate) == (0, 0, 1.0)


CHILD = """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if len(sys.argv) == 1:   # a loader's worker, which whoever has started it leaves behind
    subprocess.Popen([sys.executable, "-c", sys.orig_argv[-1], "inner"])
open(f"{os.getpid()}.child", "w").close()
signal.pause()
"""

INTERRUPTED = f"""
import sys
from asyncckpt.launch import ExecutionMode, ModelTrainingFramework, ParameterGrid
grid = ParameterGrid("seeds")
grid.add_parameter("seed", [1, 2, 3])
command = [sys.executable, "-c", {CHILD!r}]
framework = ModelTrainingFramework(".")
framework.run_grid_search([grid], "base.yaml", None, ExecutionMode.LOCAL, None, 2, command=command)
"""


def test_e2_an_interrupt_ends_what_runs_and_begins_no_other(tmp_path: Path, framework: ModelTrainingFramework) -> None:
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], cwd=tmp_path, stderr=subprocess.PIPE) as search:
        while len(list(tmp_path.glob("*.child"))) < 4:
            assert search.poll() is None
            time.sleep(0.01)
        search.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in search.communicate(timeout=60)[1]
    children = [int(path.stem) for path in tmp_path.glob("*.child")]
    assert len(children) == 4
    deadline = time.monotonic() + 60
    while not all(map(has_ended, children)):
        assert time.monotonic() < deadline, "something that an experiment has started is still there"
        time.sleep(0.01)


def has_ended(process: int) -> bool:
    """Whether it is gone, or only waits for somebody to ask after it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # also between opening and reading
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
