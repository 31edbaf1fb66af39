"""A batch of jobs for Slurm: three seeds, two at once, each put back into the queue when it is preempted.

    python examples/slurm_batch.py OUTPUT [--dry-run]

What a job runs is the last line of the template. `exec` makes the training the process that Slurm sends its signal to.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from asyncckpt.launch import ExecutionMode, ExperimentConfig, JobStatus, ParameterGridSearch, SLURMLauncher

BASE = {
    "experiment_name": "seeds",
    "model": {"name": "mlp", "hidden_size": 16},
    "training": {"epochs": 3, "batch_size": 32, "learning_rate": 0.01},
    "data": {"dataset_name": "sines"},
    "optimizer": {"name": "adamw"},
    "slurm": {"time_limit": "00:10:00", "cpus_per_task": 1},
    "preemption": {"grace_period_seconds": 60, "max_preemptions": 20},
}

TEMPLATE = f"""#!/bin/bash
#SBATCH --comment={{{{job_name}}}}

echo "{{{{experiment_name}}}} runs on $(hostname), start number ${{SLURM_RESTART_COUNT:-0}}"
exec {sys.executable} {Path(__file__).resolve().parent / "grid_search.py"} --train {{{{config_path}}}}
"""


def experiments() -> list[ExperimentConfig]:
    """One for each seed."""
    search = ParameterGridSearch(BASE)
    search.create_grid("seeds").add_parameter("seed", [1, 2, 3])
    return list(search.generate_experiments())


def main(output: Path, mode: ExecutionMode) -> None:
    """Submit them, and wait until all have ended."""
    output.mkdir(parents=True, exist_ok=True)
    template = output / "job.template"
    template.write_text(TEMPLATE)
    launcher = SLURMLauncher(template, output)
    batch = launcher.submit_experiment_batch(experiments(), mode, max_concurrent_jobs=2)
    for name, reason in batch.failed.items():
        print(f"{name} was not submitted: {reason}")
    for name, job in batch.successful.items():
        print(f"{name}: {job}")
    waiting = dict(batch.successful) if mode is ExecutionMode.SLURM else {}
    while waiting:
        for name, job in list(waiting.items()):
            status = launcher.get_job_status(job)
            if status not in (JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUSPENDED):
                print(f"{name}: {status.value}")
                del waiting[name]
        time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), ExecutionMode.DRY_RUN if "--dry-run" in sys.argv else ExecutionMode.SLURM)
