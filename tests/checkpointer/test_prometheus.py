"""P10: a real Prometheus server scrapes a live checkpointer, and its own linter finds nothing to say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from asyncckpt import AsyncCheckpointer, MetricsConfig, RetentionPolicy
from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.slow import GatedStorage

from ..deploy.conftest import needs
from .scraping import page
from .trainings import Training

if sys.platform != "linux":
    pytest.skip("the servers that these tests ask run on Linux", allow_module_level=True)

from asyncckpt.testing.prometheus import PrometheusServer, called

PAGE = Path(__file__).parents[2] / "docs/metrics.md"


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[AsyncCheckpointer]:
    """A training that has saved, failed, pruned, deleted and restored."""
    store = GatedStorage(LocalStorage(tmp_path / "run"))
    training = Training()
    config = MetricsConfig(port=0, const_labels={"run": "busy"})
    parts = {"model": training.model, "optimizer": training.optimizer}
    with AsyncCheckpointer(store, **parts, metrics=config, keep=RetentionPolicy(last=1)) as ckpt:
        for step in (10, 20, 30):
            training.step()
            ckpt.save(step).wait()
        store.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"), times=1)
        with pytest.raises(SaveFailed):
            ckpt.save(40).wait()
        ckpt.restore("latest")
        ckpt.wait()
        yield ckpt


def test_P10_a_real_prometheus_scrapes_a_live_checkpointer(busy: AsyncCheckpointer, tmp_path: Path) -> None:
    needs("prometheus")
    with PrometheusServer(tmp_path, {"trainer": [f"127.0.0.1:{busy.metrics_port}"]}) as server:
        server.wait_for('up{job="trainer"}', 1)
        server.wait_for('asyncckpt_durable_step{run="busy"}', 30)
        for expression, value in {
            'asyncckpt_saves_total{outcome="durable"}': 3,
            'asyncckpt_save_failures_total{phase="write"}': 1,
            "asyncckpt_requested_step": 40,
            "asyncckpt_queued_saves + asyncckpt_writing_saves": 0,
            'asyncckpt_stall_seconds_count{where="call"}': 4,
            'count(asyncckpt_phase_seconds_count{phase!="prune"} == 3)': 5,
            "asyncckpt_retained_checkpoints": 1,
            'asyncckpt_retained_bytes / on (run) asyncckpt_bytes_total{direction="written"} < bool 1': 1,
            'asyncckpt_bytes_total{direction="pruned"} > bool 0': 1,
            'asyncckpt_restores_total{outcome="restored"}': 1,
            'asyncckpt_storage_errors_total{reason="full"}': 1,
            "sum(asyncckpt_damaged_checkpoints_total)": 0,
            "asyncckpt_build_info": 1,
            'asyncckpt_run_info{backend="local",world_size="1"}': 1,
            'asyncckpt_save_requests_total{outcome="accepted"} - on (run) sum by (run) (asyncckpt_saves_total)': 0,
            'rate(asyncckpt_bytes_total{direction="written"}[5m]) * on (run) group_left (backend) asyncckpt_run_info '
            ">= bool 0": 1,
            "time() - asyncckpt_durable_timestamp_seconds < bool 3600": 1,
            "histogram_quantile(0.5, asyncckpt_save_duration_seconds_bucket) < bool 1800": 1,
        }.items():
            server.wait_for(expression, value)
        busy.save(50).wait()
        server.wait_for("asyncckpt_durable_step", 50)


def test_P10_promtool_has_nothing_to_say_of_what_is_served(busy: AsyncCheckpointer) -> None:
    needs("promtool")
    done = called("promtool", "check", "metrics", said=page(busy.metrics_port))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_P10_every_metric_that_is_served_is_in_the_documentation_and_the_other_way_round(
    busy: AsyncCheckpointer,
) -> None:
    families = list(text_string_to_metric_families(page(busy.metrics_port)))
    served = {f.name + "_total" if f.type == "counter" else f.name: f for f in families}
    told: dict[str, tuple[set[str], str]] = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `asyncckpt_"):
            _, names, text, *_ = line.split("|")
            for name, labels in re.findall(r"`(asyncckpt_\w+)(?:\{(.*?)\})?`", names):
                told[name] = set(filter(None, labels.split(","))), text
    assert told.keys() == served.keys()
    for name, family in served.items():
        labels = {label for sample in family.samples for label in sample.labels} - {"le", "run"}
        assert labels <= told[name][0], name
        assert labels == told[name][0] or not family.samples, name
        assert (family.type == "histogram") == ("histogram" in told[name][1]), name
        assert (family.type == "summary") == ("sum and count" in told[name][1]), name
