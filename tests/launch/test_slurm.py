"""E29 to E33: jobs of Slurm, with programs that answer what was recorded, and what no cluster answers on demand."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import AsyncCkptError, ConfigurationError, JobSubmissionError, SLURMError
from asyncckpt.launch import ExecutionMode, JobStatus, SLURMLauncher
from asyncckpt.launch.config import ConfigurationManager, ExperimentConfig, experiment
from asyncckpt.launch.git import GitManager
from asyncckpt.launch.slurm import commands
from asyncckpt.launch.slurm.template import NAMES, Template

TEMPLATE = "#!/bin/bash\nexec python train.py {{config_path}}\n"

Answer = Callable[..., None]


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Have a program of Slurm answer that; what it was called with is in ``calls``, a line of JSON for each call.

    Nothing else is on the path, so that a program without an answer is one that is not here.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def answering(program: str, said: str = "", status: int = 0, complaint: str = "") -> None:
        path = folder / program
        path.write_text(
            "#!/bin/bash\n"
            f'{{ printf {program}; printf "\\t%s" "$@"; echo; }} >> "$CALLS"\n'
            f"printf %s {shlex.quote(said)}\nprintf %s {shlex.quote(complaint)} >&2\nexit {status}\n"
        )
        path.chmod(0o755)

    return answering


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[list[str]]]:
    def found() -> list[list[str]]:
        path = tmp_path / "calls"
        return [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []

    return found


@pytest.fixture
def launcher(tmp_path: Path) -> SLURMLauncher:
    (tmp_path / "job.template").write_text(TEMPLATE)
    return SLURMLauncher(tmp_path / "job.template", tmp_path / "out", project_root=tmp_path)


@pytest.fixture
def config(least: dict[str, Any]) -> ExperimentConfig:
    return experiment(least)


# -- E29 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "job"),
    [
        ("123\n", "123"),
        ("123;cluster\n", "123;cluster"),
        ("Submitted batch job 123\n", "123"),
        ("Submitted batch job 123 on cluster c1\n", "123;c1"),
        ("a remark of the site\n123\n", "123"),
    ],
)
def test_e29_the_job_id_is_understood(
    launcher: SLURMLauncher, config: ExperimentConfig, answer: Answer, tmp_path: Path, said: str, job: str
) -> None:
    answer("sbatch", said)
    assert launcher.submit_experiment(config) == job
    noted = json.loads((tmp_path / "out" / "tiny" / "submissions.jsonl").read_text())
    assert noted["job_id"] == job


def test_e29_a_job_of_another_cluster_is_asked_for_and_ended_there(
    launcher: SLURMLauncher, answer: Answer, calls: Callable[[], list[list[str]]]
) -> None:
    answer("squeue", "CLUSTER: c1\nRUNNING\n")
    for program in ("sacct", "scancel", "scontrol"):
        answer(program)
    assert launcher.get_job_status("5;c1") is JobStatus.RUNNING
    assert launcher.cancel_job("5;c1")
    assert launcher.requeue_job("5;c1")
    assert all("--clusters=c1" in call for call in calls())
    assert [call[2:] for call in calls() if call[0] in ("scancel", "scontrol")] == [["5"], ["requeue", "5"]]
    assert all(call[-1] == "--jobs=5" for call in calls() if call[0] == "squeue")


def test_e29_what_the_configuration_asks_for_are_options_of_sbatch(
    launcher: SLURMLauncher, least: dict[str, Any], answer: Answer, tmp_path: Path, calls: Callable[[], list[list[str]]]
) -> None:
    answer("sbatch", "7\n")
    least["slurm"] = {
        "job_name": "a job; $(touch here)", "time_limit": "1:00:00", "nodes": 2, "ntasks_per_node": 3,
        "cpus_per_task": 4, "mem": "5G", "gres": "gpu:6", "partition": "gpu", "additional_args": ["--account=a b"],
    }  # fmt: skip
    least["preemption"] = {"grace_period_seconds": 59.5, "signal": "SIGUSR2"}
    launcher.submit_experiment(experiment(least))
    folder = tmp_path / "out" / "tiny"
    assert calls() == [[
        "sbatch", "--parsable", "--job-name=a job; $(touch here)", f"--chdir={tmp_path}",
        f"--output={folder}/slurm-%j.out", "--open-mode=append", "--requeue",
        "--time=1:00:00", "--nodes=2", "--ntasks-per-node=3", "--cpus-per-task=4",
        "--mem=5G", "--gres=gpu:6", "--partition=gpu", "--signal=B:USR2@60", "--account=a b", str(folder / "job.sh"),
    ]]  # fmt: skip


def test_e29_what_the_template_says_itself_stands(
    least: dict[str, Any], answer: Answer, tmp_path: Path, calls: Callable[[], list[list[str]]]
) -> None:
    answer("sbatch", "7\n")
    least["preemption"] = {"requeue": False}
    for number, (line, expected) in enumerate([
        ("#SBATCH --signal=TERM@9\npython {{config_path}}", []),
        ("#SBATCH --sig TERM@9\npython {{config_path}}", []),
        ("#SBATCH --time=9 # --signal=TERM@9\npython {{config_path}}", ["--signal=B:USR1@60"]),
        ("timeout --signal=TERM 60 python {{config_path}}", ["--signal=B:USR1@60"]),
        ("# not --signal\nsrun python {{config_path}}", ["--signal=USR1@60"]),
        ("python {{config_path}} # and no srun-like\n", ["--signal=B:USR1@60"]),
    ]):  # fmt: skip
        (tmp_path / "own").write_text(f"#!/bin/bash\n{line}\n")
        least["experiment_name"] = f"tiny{number}"
        SLURMLauncher(tmp_path / "own", tmp_path / "out").submit_experiment(experiment(least))
        said = calls()[-1]
        assert [word for word in said if word.startswith("--signal")] == expected
        assert "--no-requeue" in said
        assert not any(word.startswith("--time") for word in said)


def test_e29_a_time_limit_that_leaves_nothing_before_the_grace_is_refused(
    least: dict[str, Any], answer: Answer, tmp_path: Path
) -> None:
    answer("sbatch", "7\n")
    least["preemption"] = {"grace_period_seconds": 120}
    for number, (line, section, refused) in enumerate([
        ("", {"time_limit": "00:03:00"}, "00:03:00 (180 s)"),
        ("", {"time_limit": "3"}, "3 (180 s)"),
        ("", {"time_limit": "2:01"}, "2:01 (180 s)"),
        ("", {"time_limit": "0-0:2"}, "0-0:2 (120 s)"),
        ("", {"time_limit": "1-0", "additional_args": ["-t 2"]}, "2 (120 s)"),
        ('#SBATCH --time="2"', {}, '"2" (120 s)'),
        ("", {"time_limit": "3:01"}, None),
        ("", {"time_limit": "0-1"}, None),
        ("", {"time_limit": "1-0:1"}, None),
        ("#SBATCH --time=1:1:1:1", {}, None),
        ("", {"time_limit": "0"}, None),
        ("", {"time_limit": "UNLIMITED"}, None),
        ("#SBATCH --time-min=1", {}, None),
        ("#SBATCH --time=1", {"time_limit": "1:00:00"}, None),
        ("#SBATCH --signal=TERM@9", {"time_limit": "1"}, None),
        ("", {"time_limit": "1", "additional_args": ["--signal=TERM@9"]}, None),
    ]):  # fmt: skip
        (tmp_path / "own").write_text(f"#!/bin/bash\n{line}\npython {{{{config_path}}}}\n")
        config = experiment({**least, "experiment_name": f"tiny{number}", "slurm": section})
        made = SLURMLauncher(tmp_path / "own", tmp_path / "out")
        if refused is None:
            assert made.submit_experiment(config) == "7"
            continue
        for mode in (ExecutionMode.DRY_RUN, ExecutionMode.SLURM):
            with pytest.raises(ConfigurationError) as raised:
                made.submit_experiment(config, mode)
            assert str(raised.value) == (
                f"tiny{number} has a time limit of {refused}, and is told to stop "
                "preemption.grace_period_seconds=120 before it, which Slurm may do 60 s earlier: no time is left to "
                "train. Use a slurm.time_limit of more than 180 s, or a shorter grace"
            )
        assert not (tmp_path / "out" / f"tiny{number}").exists()


def test_e29_what_does_not_become_a_job_is_an_error(
    launcher: SLURMLauncher, config: ExperimentConfig, answer: Answer, tmp_path: Path
) -> None:
    with pytest.raises(JobSubmissionError, match="sbatch is not here"):
        launcher.submit_experiment(config)
    answer("sbatch", "who knows\n")
    with pytest.raises(JobSubmissionError, match=r"sbatch said no job id: 'who knows'; the job may be submitted"):
        launcher.submit_experiment(config)
    with pytest.raises(JobSubmissionError, match=r"submitting\.json is there: .*squeue --name; with resubmit=True"):
        launcher.submit_experiment(config)
    answer("sbatch")
    with pytest.raises(JobSubmissionError, match="sbatch said no job id: ''"):
        launcher.submit_experiment(config, resubmit=True)
    answer("sbatch", "", 1, "sbatch: error: invalid partition specified: gpu")
    for resubmit in (True, False):
        with pytest.raises(JobSubmissionError, match=r"sbatch failed \(1\): sbatch: error: invalid partition"):
            launcher.submit_experiment(config, resubmit=resubmit)
    assert sorted(path.name for path in (tmp_path / "out" / "tiny").iterdir()) == ["config.yaml", "job.sh"]


def test_e29_a_dry_run_writes_the_script_and_calls_nobody(
    launcher: SLURMLauncher,
    config: ExperimentConfig,
    answer: Answer,
    tmp_path: Path,
    calls: Callable[[], list[list[str]]],
) -> None:
    answer("sbatch", "7\n")
    assert launcher.submit_experiment(config, ExecutionMode.DRY_RUN) == "dry-run"
    assert sorted(path.name for path in (tmp_path / "out" / "tiny").iterdir()) == ["config.yaml", "job.sh"]
    assert calls() == []
    launcher.submit_experiment(config)
    assert launcher.submit_experiment(config, ExecutionMode.DRY_RUN) == "dry-run"
    word: Any = "dry_run"
    assert launcher.submit_experiment(config, word) == "dry-run"
    assert [call[0] for call in calls()] == ["sbatch"]
    word = "dry"
    with pytest.raises(ConfigurationError, match="execution_mode='dry': use ExecutionMode, or one of slurm"):
        launcher.submit_experiment(config, word)
    with pytest.raises(ConfigurationError, match="execution_mode='dry'"):
        launcher.submit_experiment_batch([config], word)
    with pytest.raises(ConfigurationError, match="runs nothing locally"):
        launcher.submit_experiment(config, ExecutionMode.LOCAL)


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUSPENDED", "COMPLETED"])
def test_e29_what_is_a_job_already_is_not_submitted_again_unasked(
    launcher: SLURMLauncher,
    config: ExperimentConfig,
    answer: Answer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    status: str,
) -> None:
    answer("sbatch", "7\n")
    launcher.submit_experiment(config)
    answer("squeue", f"{status}\n")
    answer("sbatch", "8\n")
    assert launcher.submit_experiment(config) == "7"
    assert dict(launcher.submit_experiment_batch([config]).successful) == {"tiny": "7"}
    assert f"tiny is job 7 already, which is {status}; with resubmit=True it is submitted again" in caplog.text
    assert launcher.submit_experiment(config, resubmit=True) == "8"
    noted = (tmp_path / "out" / "tiny" / "submissions.jsonl").read_text().splitlines()
    assert [json.loads(line)["job_id"] for line in noted] == ["7", "8"]


def test_e29_whether_a_job_still_runs_is_known_before_there_is_another(
    launcher: SLURMLauncher, config: ExperimentConfig, answer: Answer, tmp_path: Path
) -> None:
    answer("sbatch", "7\n")
    launcher.submit_experiment(config)
    answer("squeue", "", 1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    answer("sacct", "FAILED\n")
    with pytest.raises(JobSubmissionError, match=r"tiny was submitted as job 7, .*cannot be found out; with resubmit"):
        launcher.submit_experiment(config)
    answer("squeue", "", 1, "slurm_load_jobs error: Invalid job id specified")
    answer("sbatch", "8\n")
    assert launcher.submit_experiment(config) == "8"


def test_e29_where_sbatch_does_not_answer_there_may_be_a_job(
    launcher: SLURMLauncher, config: ExperimentConfig, answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer("sbatch")
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    monkeypatch.setattr(commands, "PATIENCE", 0.3)
    with pytest.raises(JobSubmissionError, match=r"sbatch has not answered for 0\.3 s; what it was asked for may be"):
        launcher.submit_experiment(config)
    begun = tmp_path / "out" / "tiny" / "submitting.json"
    assert json.loads(begun.read_text()).keys() == {"since", "host", "pid"}
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    answer("sbatch", "7\n")
    with pytest.raises(JobSubmissionError, match=r"submitting\.json is there"):
        launcher.submit_experiment(config)
    assert launcher.submit_experiment(config, resubmit=True) == "7"
    assert not begun.exists()
    answer("sbatch", "who knows\n")
    with pytest.raises(JobSubmissionError, match="the job may be submitted"):
        launcher.submit_experiment(config, resubmit=True)
    assert begun.exists()


def test_e29_notes_that_a_kill_has_cut_off_do_not_hide_the_job_before(
    launcher: SLURMLauncher, config: ExperimentConfig, answer: Answer, tmp_path: Path
) -> None:
    answer("sbatch", "7\n")
    launcher.submit_experiment(config)
    with (tmp_path / "out" / "tiny" / "submissions.jsonl").open("a") as file:
        file.write('{}\n[1]\n{"job_id": "8')
    answer("squeue", "RUNNING\n")
    assert launcher.submit_experiment(config) == "7"


def test_e29_a_job_that_cannot_be_noted_is_told_all_the_same(
    launcher: SLURMLauncher, config: ExperimentConfig, answer: Answer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer("sbatch")
    notes = tmp_path / "out" / "tiny" / "submissions.jsonl"
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\n/bin/mkdir {notes}\necho 7\n")  # no file, like a full disk
    assert launcher.submit_experiment(config) == "7"
    assert "job 7 is submitted, and cannot be noted in" in caplog.text
    notes.rmdir()
    with pytest.raises(JobSubmissionError, match=r"submitting\.json is there"):
        launcher.submit_experiment(config)


def test_e29_a_dependency_of_the_users_stands_beside_ours(
    least: dict[str, Any], answer: Answer, tmp_path: Path, calls: Callable[[], list[list[str]]]
) -> None:
    answer("sbatch", "7;c1\n")

    def dependency(line: str, *given: str) -> str:
        (tmp_path / "own").write_text(f"#!/bin/bash\n{line}\npython {{{{config_path}}}}\n")
        made = SLURMLauncher(tmp_path / "own", tmp_path / str(len(calls())))
        found = made.submit_experiment_batch(
            [experiment({**each, "slurm": {"additional_args": [*given]}}) for each in (least, second)],
            max_concurrent_jobs=1,
        )
        if found.failed:
            return next(iter(found.failed.values()))
        return next(word for word in reversed(calls()[-1]) if word.startswith("--dependency"))

    second = {**least, "experiment_name": "second"}
    assert dependency("") == "--dependency=afterany:7"
    assert dependency("", "--dependency=afterok:3:4") == "--dependency=afterok:3:4,afterany:7"
    assert dependency("", "-d afterok:3") == "--dependency=afterok:3,afterany:7"
    assert dependency('#SBATCH --depend="singleton"') == "--dependency=singleton,afterany:7"
    assert dependency("#SBATCH -d afterok:1 --distribution=block", "--deadline=now") == (
        "--dependency=afterok:1,afterany:7"
    )
    assert dependency("#SBATCH -d afterok:1", "-dafterok:2") == "--dependency=afterok:2,afterany:7"
    assert "Slurm has no word for both" in dependency("", "--dependency=afterok:1?afterok:2")


def test_e29_what_came_from_the_environment_is_in_no_file(
    answer: Answer, tmp_path: Path, least: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    calls: Callable[[], list[list[str]]],
) -> None:  # fmt: skip
    monkeypatch.setenv("SECRET", "hunter2")
    answer("sbatch", "7\n")
    (tmp_path / "job.template").write_text(TEMPLATE)
    least["slurm"] = {"additional_args": ["--export=ALL,TOKEN=${SECRET}"], "partition": "${SECRET}"}
    least["custom_params"] = {"token": "${SECRET}"}
    manager = ConfigurationManager(tmp_path)
    manager.save_config(least, "base.yaml")
    made = SLURMLauncher(tmp_path / "job.template", tmp_path / "out")
    made.submit_experiment(manager.load_experiment("base.yaml"))
    assert {"--export=ALL,TOKEN=hunter2", "--partition=hunter2"} <= {*calls()[-1]}
    noted = json.loads((tmp_path / "out" / "tiny" / "submissions.jsonl").read_text())["command"]
    assert {"sbatch", "--parsable", "--partition=${SECRET}", "--export=ALL,TOKEN=${SECRET}"} <= {*noted}
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 3
    for path in written:
        assert "hunter2" not in path.read_text()
    found = manager.load_experiment(tmp_path / "out" / "tiny" / "config.yaml")
    assert found.custom_params == {"token": "hunter2"}
    answer("squeue", "FAILED\n")
    monkeypatch.setenv("SECRET", "hunter3")  # another password is no other experiment
    made.submit_experiment(manager.load_experiment("base.yaml"))


def test_e29_an_experiment_may_go_on_and_another_of_its_name_may_not(
    launcher: SLURMLauncher, config: ExperimentConfig, answer: Answer, tmp_path: Path
) -> None:
    answer("sbatch", "7\n")
    launcher.submit_experiment(config)
    answer("squeue", "TIMEOUT\n")
    launcher.submit_experiment(config)
    assert len((tmp_path / "out" / "tiny" / "submissions.jsonl").read_text().splitlines()) == 2
    config.training.epochs = 99
    with pytest.raises(ConfigurationError, match=r"config\.yaml is there, of another experiment"):
        launcher.submit_experiment(config)


def test_e29_a_name_leads_out_of_no_folder(
    launcher: SLURMLauncher, config: ExperimentConfig, answer: Answer, tmp_path: Path
) -> None:
    answer("sbatch", "7\n")
    for name in ("../../outside", "/etc/passwd", ".."):
        config.experiment_name = name
        launcher.submit_experiment(config)
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"out", "bin", "calls", "job.template"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/bash\npython train.py\n", r"does not name \{\{config_path\}\}"),
        ("#!/bin/bash\npython {{config_path}} {{gpus}}\n", r"names \{\{gpus\}\}; there are config_path"),
        ("#!/usr/bin/python3\nprint('{{config_path}}')\n", "has to begin with the line of a shell"),
        ("python {{config_path}}\n", "has to begin with the line of a shell"),
    ],
)
def test_e29_a_template_that_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "job").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        SLURMLauncher(tmp_path / "job", tmp_path)
    (tmp_path / "latin").write_bytes("#!/bin/bash\n# ß {{config_path}}\n".encode("latin-1"))
    for name in ("nowhere", "latin"):
        with pytest.raises(ConfigurationError, match=f"{name} cannot be read"):
            SLURMLauncher(tmp_path / name, tmp_path)


HOSTILE = [
    "plain", "two words", "'", '"', "\\", "$(touch pwned)", "`touch pwned`", "; touch pwned #", "' ; touch pwned ; '",
    '" ; touch pwned ; "', "\"'$(touch pwned)'\"", "a\nb\ntouch pwned\n", "\n#SBATCH --uid=0", "${HOME}",
    "{{config_path}}",
    "*", "~", "!!", "-n", "EOF", "EOF\ntouch pwned\nEOF", "nuß", "x" * 5000,
]  # fmt: skip


def filled(folder: Path, commands: str, value: str) -> str:
    """The script of a template with these commands, and every value the same."""
    text = f"#!/bin/bash\n#SBATCH --job-name={{{{job_name}}}}\n\n{commands}\n# {{{{config_path}}}}\n"
    (folder / "job").write_text(text)
    return Template(folder / "job").filled(dict.fromkeys(NAMES, value))


def ran(folder: Path, script: str) -> None:
    (folder / "job.sh").write_text(script)
    subprocess.run(["bash", "job.sh"], cwd=folder, check=True, timeout=60)


@pytest.mark.parametrize("value", HOSTILE)
def test_e29_no_value_is_taken_for_a_command_wherever_its_name_stands(tmp_path: Path, value: str) -> None:
    script = filled(
        tmp_path,
        "# it's {{job_name}}, isn't it\n"
        "{\n"
        "printf '%s\\0' {{job_name}}\n"
        'printf "%s\\0" "{{job_name}}" --name={{job_name}} "--name={{ job_name }}!"\n'
        "printf '%s\\0' '{{job_name}}' # don't\n"
        "printf '%s\\0' \\\"{{job_name}} \"it's {{job_name}}\" ;# don't\n"
        'printf "%s\\0" "$(echo "it\'s" "${HOME:+"x"}")" "{{job_name}}"\n'
        "printf '%s\\0' $'don\\'t' {{job_name}}\n"
        "cat <<EOF >/dev/null\nit's \"\nEOF\n"
        "printf '%s\\0' {{job_name}}\n"
        "} > said\n",
        value,
    )
    ran(tmp_path, script)
    said = (tmp_path / "said").read_text().split("\0")
    assert said[:5] == [value, value, f"--name={value}", f"--name={value}!", value]
    assert said[5:] == [f'"{value}', f"it's {value}", "it's x", value, "don't", value, value, ""]
    assert {path.name for path in tmp_path.iterdir()} == {"job", "job.sh", "said"}
    directives = [line for line in script.split("\n") if line.startswith("#SBATCH")]
    assert len(directives) == 1 + 5 * value.count("\n#SBATCH")  # those stand in quotes, after the first command
    assert script.index("#SBATCH") < script.index("export ASYNCCKPT_CONFIG_PATH=")


def test_e29_a_line_for_sbatch_has_the_value_in_its_quotes_and_all_else_stays(tmp_path: Path) -> None:
    (tmp_path / "job").write_text(
        "#!/bin/bash\n\n#SBATCH --comment={{job_name}}\n# {{job_name}}\n\n#SBATCH -o {{output_dir}}/log\n"
        'python "$ASYNCCKPT_CONFIG_PATH" {{job_name}} --more\necho the end\n'
    )
    script = Template(tmp_path / "job").filled({**dict.fromkeys(NAMES, "x"), "job_name": 'a "b" \\ $(c)\n#SBATCH -x'})
    quoted = '"a \\"b\\" \\\\ $(c)_#SBATCH -x"'
    assert script.startswith(f'#!/bin/bash\n\n#SBATCH --comment={quoted}\n# {quoted}\n\n#SBATCH -o "x"/log\nexport ')
    assert script.endswith('\npython "$ASYNCCKPT_CONFIG_PATH" "${ASYNCCKPT_JOB_NAME}" --more\necho the end\n')


READ_AGAIN = [
    'bash -c "printf %s {{job_name}}"', "bash -c 'printf %s {{job_name}}'", "srun -n 1 /bin/sh -lc {{job_name}}",
    "eval printf %s {{job_name}}", 'eval "printf %s {{job_name}}"', "ssh host printf %s {{job_name}}",
    "bash <<EOF\nprintf %s {{job_name}}\nEOF", "cat > run.sh <<'EOF'\nprintf %s {{job_name}}\nEOF\nbash run.sh",
    "bash <<-EOF\n\tprintf %s {{job_name}}\n\tEOF", "bash <<< {{job_name}}", "printf %s $(printf %s {{job_name}})",
    "$(printf %s {{job_name}})", 'printf %s "$(printf %s "{{job_name}}")"', "printf %s `printf %s {{job_name}}`",
    'printf %s "${NOTHING:-{{job_name}}}"', "printf %s $(( {{job_name}} ))", "(( {{job_name}} ))", "let {{job_name}}",
    "[[ {{job_name}} -eq 1 ]]", "a[{{job_name}}]=1", "declare {{job_name}}=1", "printf -v {{job_name}} x",
    "trap 'echo {{job_name}}' EXIT", "find . -exec sh -c 'echo {{job_name}}' \\;",
    "python -c \"print('{{job_name}}')\"",
    "python -W error -uc \"print('{{job_name}}')\"", "perl -ne {{job_name}}", "echo {{job_name}} | bash",
    "{ echo {{job_name}}; } | bash", "echo {{job_name}} |\n (bash -s)", "echo {{job_name}} | xargs touch",
    'CMD="printf %s {{job_name}}"; $CMD', 'echo "printf %s {{job_name}}" > run.sh; bash run.sh', "{{job_name}} --flag",
    'sbatch --wrap="echo {{job_name}}"', "printf %s $'{{job_name}}'", "source <(echo {{job_name}})",
    "flock lock -c 'echo {{job_name}}'", "eval 2>&1 echo {{job_name}}",
    "x=$(case a in a) echo b;; esac); echo {{job_name}}",
    "exec {{experiment_name}}", "if true; then {{job_name}}; fi",
]  # fmt: skip


@pytest.mark.parametrize("commands", READ_AGAIN)
def test_e29_where_a_value_would_be_read_again_only_a_plain_one_is_put(tmp_path: Path, commands: str) -> None:
    for value in HOSTILE:
        if value in ("plain", "-n", "EOF") or value == "x" * 5000:
            assert value in filled(tmp_path, commands, value)
        else:
            with pytest.raises(
                ConfigurationError, match=r"(?s)job, line \d+: \{\{\w+\}\} is .*could be run as a command"
            ):
                filled(tmp_path, commands, value)


READ_ONCE = [
    'srun -c 4 python -u -m train {{config_path}} --name "{{job_name}}" 2>&1 | tee log',
    "exec python -X dev train.py -c {{config_path}}", "bash train.sh {{job_name}} && perl run.pl {{job_name}}",
    'echo "{{job_name}} runs on $(hostname), start ${SLURM_RESTART_COUNT:-0}" >&2', "NAME={{job_name}} python train.py",
    'if [ -e {{config_path}} ]; then cd "{{project_root}}"; fi', "case {{job_name}} in a) exit 3;; esac",
    "source {{project_root}}/env.sh", "args=(--config {{config_path}})", 'export NAME="{{job_name}}"',
    "{{project_root}}/train.sh {{job_name}}", "x=$((1 << 2)); cat <<EOF\nit's\nEOF\npython train.py '{{job_name}}'",
]  # fmt: skip


@pytest.mark.parametrize("commands", READ_ONCE)
def test_e29_what_templates_usually_do_takes_any_value(tmp_path: Path, commands: str) -> None:
    for value in HOSTILE:
        script = filled(tmp_path, commands, value)
        assert "{{" not in script.replace(value, "")
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=60)


@pytest.mark.parametrize("value", HOSTILE)
def test_e29_what_reads_again_finds_any_value_in_the_environment(tmp_path: Path, value: str) -> None:
    ran(tmp_path, filled(tmp_path, "bash -c 'printf %s \"$ASYNCCKPT_JOB_NAME\"' > said", value))
    assert (tmp_path / "said").read_text() == value
    assert {path.name for path in tmp_path.iterdir()} == {"job", "job.sh", "said"}


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ('bash -c "printf %s {{job_name}}"', "a-b"),
        ("bash -c 'printf %s {{job_name}}'", "a-b"),
        ("bash <<'EOF'\nprintf %s {{job_name}}\nEOF", "a-b"),
        ('printf "$(printf %s "{{job_name}}")"', "a-b"),
        ("eval 'printf %s '\"{{job_name}}\"", "a-b"),
    ],
)
def test_e29_a_plain_value_is_put_as_it_is(tmp_path: Path, commands: str, expected: str) -> None:
    ran(tmp_path, filled(tmp_path, "{\n" + commands + "\n} > said", "a-b"))
    assert (tmp_path / "said").read_text() == expected


# -- E30 ---------------------------------------------------------------------------------------------------


def several(least: dict[str, Any], count: int) -> list[ExperimentConfig]:
    return [experiment({**least, "experiment_name": f"e{number}"}) for number in range(count)]


COUNTING = """#!/bin/bash
count=$(/usr/bin/wc -l < "$CALLS" 2>/dev/null || echo 0)
echo "$@" >> "$CALLS"
case "$*" in *e2/*) echo "no room" >&2; exit 1;; esac
echo $((count + 1))
"""


def test_e30_at_most_so_many_run_at_once_and_one_that_fails_stops_no_other(
    launcher: SLURMLauncher, least: dict[str, Any], answer: Answer, tmp_path: Path
) -> None:
    answer("sbatch")
    (tmp_path / "bin" / "sbatch").write_text(COUNTING)
    found = launcher.submit_experiment_batch(several(least, 7), max_concurrent_jobs=2)
    assert dict(found.successful) == {"e0": "1", "e1": "2", "e3": "4", "e4": "5", "e5": "6", "e6": "7"}
    assert list(found.failed) == ["e2"]
    assert "no room" in found.failed["e2"]
    assert found.success_rate == 6 / 7
    said = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    after = [next((word for word in line if word.startswith("--dependency")), "") for line in said]
    assert after == [
        "", "", "--dependency=afterany:1", "--dependency=afterany:1", "--dependency=afterany:2",
        "--dependency=afterany:4", "--dependency=afterany:5",
    ]  # fmt: skip


def test_e30_nobody_waits_for_what_has_ended_and_a_folder_that_cannot_be_made_stops_no_other(
    launcher: SLURMLauncher, least: dict[str, Any], answer: Answer, calls: Callable[[], list[list[str]]]
) -> None:
    first, second, third = several(least, 3)
    answer("sbatch", "7\n")
    launcher.submit_experiment(first)
    answer("squeue", "COMPLETED\n")
    (launcher.output_dir / "e1").touch()
    found = launcher.submit_experiment_batch([first, second, third], max_concurrent_jobs=1)
    assert dict(found.successful) == {"e0": "7", "e2": "7"}
    assert "e1" in found.failed["e1"]
    assert not any(word.startswith("--dependency") for word in calls()[-1])


def test_e30_none_are_none_and_what_cannot_be_is_refused_before_anything_is_submitted(
    launcher: SLURMLauncher, least: dict[str, Any], answer: Answer, calls: Callable[[], list[list[str]]]
) -> None:
    answer("sbatch", "7\n")
    nothing = launcher.submit_experiment_batch([])
    assert (nothing.successful, nothing.failed, nothing.success_rate) == ({}, {}, 1.0)
    with pytest.raises(ConfigurationError, match="max_concurrent_jobs=0"):
        launcher.submit_experiment_batch(several(least, 1), max_concurrent_jobs=0)
    with pytest.raises(ConfigurationError, match="several experiments named e0"):
        launcher.submit_experiment_batch(several(least, 1) * 2)
    assert calls() == []


# -- E31 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status"),
    [
        *[(f"{each.value}\n", each) for each in JobStatus if each is not JobStatus.UNKNOWN],
        ("CANCELLED by 1000\n", JobStatus.CANCELLED),
        ("CANCELLED+\n", JobStatus.CANCELLED),
        ("CLUSTER: c1\n\nCOMPLETED\n", JobStatus.COMPLETED),
        ("FAILED\nRUNNING\n", JobStatus.RUNNING),
        ("RUNNING+\n", JobStatus.RUNNING),
        ("COMPLETING\n", JobStatus.RUNNING),
        ("CONFIGURING\n", JobStatus.PENDING),
        ("REQUEUED\n", JobStatus.PENDING),
        ("REQUEUE_HOLD\n", JobStatus.PENDING),
        ("STOPPED\n", JobStatus.SUSPENDED),
        ("OUT_OF_MEMORY\n", JobStatus.FAILED),
        ("OUT_OF_ME+\n", JobStatus.UNKNOWN),
        ("BOOT_FAIL\n", JobStatus.NODE_FAIL),
        ("DEADLINE\n", JobStatus.TIMEOUT),
        ("SOMETHING_NEW\n", JobStatus.UNKNOWN),
        ("COMPLETED\nRUNNING\nFAILED\n", JobStatus.RUNNING),
        ("COMPLETED\nPENDING\n", JobStatus.PENDING),
        ("COMPLETED\nFAILED\nCOMPLETED\n", JobStatus.FAILED),
        ("COMPLETED\nCOMPLETED\n", JobStatus.COMPLETED),
    ],
)
@pytest.mark.parametrize("program", ["squeue", "sacct"])
def test_e31_every_state_is_understood(
    launcher: SLURMLauncher, answer: Answer, said: str, status: JobStatus, program: str
) -> None:
    answer("squeue", "", 1, "slurm_load_jobs error: Invalid job id specified")
    answer(program, said)
    assert launcher.get_job_status("123") is status


def test_e31_what_nobody_knows_is_unknown(
    launcher: SLURMLauncher, answer: Answer, caplog: pytest.LogCaptureFixture, calls: Callable[[], list[list[str]]]
) -> None:
    with caplog.at_level(logging.INFO, "asyncckpt"):
        assert launcher.get_job_status("123") is JobStatus.UNKNOWN
    assert "squeue is not here" in caplog.text
    assert "job 123 is unknown to squeue and sacct" in caplog.text
    answer("squeue", "")
    answer("sacct", "", 1, "sacct: error: Slurm accounting storage is disabled")
    assert launcher.get_job_status("123") is JobStatus.UNKNOWN
    assert [call[0] for call in calls()] == ["squeue", "sacct"]


# -- E32, E33 ------------------------------------------------------------------------------------------------


def test_e32_a_job_is_cancelled_or_it_is_not(
    launcher: SLURMLauncher, answer: Answer, calls: Callable[[], list[list[str]]]
) -> None:
    answer("squeue", "RUNNING\n")
    assert not launcher.cancel_job("123")
    answer("scancel")
    assert launcher.cancel_job("123")
    assert launcher.cancel_job("123_4")
    ordered = [call for call in calls() if call[0] == "scancel"]
    assert ordered == [["scancel", "123"], ["scancel", "123_4"]]
    answer("scancel", "", 1, "scancel: error: Kill job error on job id 123: Access/permission denied")
    assert launcher.cancel_job("123") is False


@pytest.mark.parametrize("status", ["", "COMPLETED\n", "FAILED\n"])
def test_e32_a_job_that_is_not_there_or_has_ended_is_not_cancelled_although_scancel_says_nothing(
    launcher: SLURMLauncher, answer: Answer, status: str
) -> None:
    answer("scancel")
    answer("squeue", status)
    assert not launcher.cancel_job("123")


@pytest.mark.parametrize(
    "job", ["", "-u root", "--user=root", "1 2", "1;2", "1\n2", "$(x)", "all", "12a", "１２", None, 12]
)
def test_e32_what_is_no_job_reaches_no_program(
    launcher: SLURMLauncher, answer: Answer, calls: Callable[[], list[list[str]]], job: Any
) -> None:
    for program in ("scancel", "squeue", "sacct", "scontrol"):
        answer(program)
    assert launcher.cancel_job(job) is launcher.requeue_job(job) is False
    assert launcher.get_job_status(job) is JobStatus.UNKNOWN
    assert calls() == []


def test_e33_a_job_is_put_back_once(
    launcher: SLURMLauncher, answer: Answer, calls: Callable[[], list[list[str]]]
) -> None:
    answer("scontrol")
    assert launcher.requeue_job("123")
    assert calls() == [["scontrol", "requeue", "123"]]
    answer("scontrol", "", 1, "Job is not requeueable")
    assert not launcher.requeue_job("123")


def test_e37_a_submission_that_fails_is_an_error_of_slurm() -> None:
    assert issubclass(JobSubmissionError, SLURMError)
    assert issubclass(SLURMError, AsyncCkptError)


def test_e29_the_code_version_of_the_repository_is_noted(
    config: ExperimentConfig, tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    here = Path(__file__).parents[2]
    (tmp_path / "job.template").write_text(TEMPLATE)
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 5\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    folder = tmp_path / "repository"
    for arguments in (
        ["init", "--quiet", str(folder)],
        ["-C", str(folder), "-c", "user.name=S", "-c", "user.email=s@e", "commit", "-q", "--allow-empty", "-m", "one"],
    ):
        subprocess.run(["git", *arguments], check=True, timeout=60, cwd=here)
    manager = GitManager(folder)
    SLURMLauncher(tmp_path / "job.template", tmp_path / "out", manager).submit_experiment(config)
    head = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    noted = json.loads((tmp_path / "out" / "tiny" / "submissions.jsonl").read_text())
    assert noted["code_version"] == head[:8]
    assert datetime.fromisoformat(noted["submitted"]).tzinfo is UTC
