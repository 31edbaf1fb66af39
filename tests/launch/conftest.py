from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asyncckpt.launch.config import ConfigurationManager

if TYPE_CHECKING:
    from asyncckpt.testing.slurm import SlurmCluster

COMPLETE = Path(__file__).with_name("complete.yaml")
"""The complete example of the schema, as its documentation has it."""


@pytest.fixture
def manager(tmp_path: Path) -> ConfigurationManager:
    """Of an empty project."""
    return ConfigurationManager(tmp_path)


@pytest.fixture
def least() -> dict[str, Any]:
    """The least that an experiment can say."""
    return {
        "experiment_name": "tiny",
        "model": {"name": "linear"},
        "training": {"epochs": 1, "batch_size": 2, "learning_rate": 0.1},
        "data": {"dataset_name": "noise"},
        "optimizer": {"name": "sgd"},
    }


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A real cluster of one node; for all tests, so none may stop it."""
    from asyncckpt.testing.slurm import SlurmCluster

    if not SlurmCluster.is_installed():
        reason = "Slurm is not here: make test gets it, or have it on the PATH"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """The cluster, as the one that this process submits to."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return slurm
