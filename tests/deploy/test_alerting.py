"""The alerts in a real Prometheus and a real Alertmanager, beside a training that stalls, and goes on."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from asyncckpt import AsyncCheckpointer, MetricsConfig, SavePolicy
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from ..checkpointer.trainings import Toy
from .conftest import DEPLOY, hastened, needs

SOONER = 300
"""So many times sooner than in production everything happens in the rules: one second for five minutes."""


@pytest.mark.long
@pytest.mark.parametrize("stalled", ["the store hangs", "the training hangs"])
def test_a_stalled_training_raises_an_alert_and_one_that_goes_on_clears_it(tmp_path: Path, stalled: str) -> None:
    needs("prometheus", "prometheus-alertmanager")
    from asyncckpt.testing.prometheus import AlertmanagerServer, PrometheusServer

    for name in ("alertmanager", "prometheus"):
        (tmp_path / name).mkdir()
    store = GatedStorage(MemoryStorage(str(tmp_path)))
    metrics = MetricsConfig(port=0, const_labels={"run": "stalled"})
    steps = itertools.count(1)
    with (
        AsyncCheckpointer(store, model=Toy(), save=SavePolicy(every_seconds=0.5), metrics=metrics) as ckpt,
        AlertmanagerServer(tmp_path / "alertmanager", DEPLOY / "prometheus" / "alertmanager.yml") as manager,
        PrometheusServer(
            tmp_path / "prometheus",
            {"trainer": [f"127.0.0.1:{ckpt.metrics_port}"]},
            rules=hastened(tmp_path, SOONER),
            alertmanager=manager.port,
        ) as prometheus,
    ):

        def train() -> None:
            ckpt.step(next(steps))

        prometheus.wait_for("asyncckpt_durable_step > 0", doing=train)
        with store.hold("put", "data/*"):
            alert = manager.wait_for("AsyncCkptStale", doing=train if stalled == "the store hangs" else lambda: None)
            assert alert["labels"].items() >= {"job": "trainer", "run": "stalled", "severity": "critical"}.items()
            assert alert["annotations"]["summary"].startswith(f"No new checkpoint of 127.0.0.1:{ckpt.metrics_port}")
            assert alert["annotations"]["runbook_url"] == "deploy/runbooks/AsyncCkptStale.md"
        manager.wait_for_none("AsyncCkptStale", doing=train)
