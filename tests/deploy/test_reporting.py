"""Metrics of jobs that end: a file for a node exporter, and a real Pushgateway that a real Prometheus scrapes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from asyncckpt import AsyncCheckpointer, MetricsConfig
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.servers import HeldPorts

from ..checkpointer.scraping import Samples, samples, total
from ..checkpointer.trainings import Toy
from .conftest import needs

TEXTFILE, PUSHGATEWAY = "ASYNCCKPT_METRICS_TEXTFILE", "ASYNCCKPT_METRICS_PUSHGATEWAY"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "ADDR", "TEXTFILE", "PUSHGATEWAY"):
        monkeypatch.delenv(f"ASYNCCKPT_METRICS_{name}", raising=False)
    for name in ("SLURM_JOB_ID", "RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def store(name: str) -> MemoryStorage:
    return MemoryStorage(f"reporting-{name}")


def read(path: Path) -> Samples:
    return samples(text_string_to_metric_families(path.read_text()))


def test_a_job_leaves_a_file_with_its_last_values_that_says_that_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("promtool")
    from asyncckpt.testing.prometheus import called

    monkeypatch.setenv(TEXTFILE, str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("RANK", "3")
    with AsyncCheckpointer(store("over"), model=Toy()) as ckpt:
        assert ckpt.metrics_port is None
        ckpt.save(7).wait()
    assert [path.name for path in tmp_path.iterdir()] == ["asyncckpt-4711-3.prom"]
    found = read(tmp_path / "asyncckpt-4711-3.prom")
    assert total(found, "asyncckpt_durable_step") == 7
    assert total(found, "asyncckpt_end_timestamp_seconds") >= total(found, "asyncckpt_start_timestamp_seconds") > 1e9
    assert all({("task", "4711"), ("rank", "3")} <= labels for _, labels in found)
    done = called("promtool", "check", "metrics", said=(tmp_path / "asyncckpt-4711-3.prom").read_text())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_there_while_the_training_lives_and_stays_as_it_was_where_that_is_killed(tmp_path: Path) -> None:
    killed = f"""
import os, signal, time
from pathlib import Path
from asyncckpt import AsyncCheckpointer, MetricsConfig
from asyncckpt.storage import MemoryStorage
import torch
ckpt = AsyncCheckpointer(MemoryStorage("killed"), model=torch.nn.Linear(2, 2),
                         metrics=MetricsConfig(port=None, textfile={str(tmp_path)!r}, every=0.01))
ckpt.save(5).wait()
while not any("asyncckpt_durable_step{{" in line and line.endswith(" 5.0")
              for path in Path({str(tmp_path)!r}).glob("*.prom") for line in path.read_text().splitlines()):
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False, timeout=120).returncode == -9
    (path,) = tmp_path.glob("*.prom")
    found = read(path)
    assert total(found, "asyncckpt_durable_step") == 5
    assert total(found, "asyncckpt_end_timestamp_seconds") == 0


def test_all_files_of_a_folder_make_one_page_without_a_series_twice(tmp_path: Path) -> None:
    """A node exporter refuses everything else: two checkpointers of one process, and one with labels of its own."""
    config = MetricsConfig(port=None, textfile=tmp_path)
    mine = MetricsConfig(port=None, textfile=str(tmp_path), const_labels={"task": "mine/1", "run": "a"})
    made = [AsyncCheckpointer(store(f"page-{n}"), model=Toy(), metrics=m) for n, m in enumerate((config, config, mine))]
    for ckpt in made:
        ckpt.save(1).wait()
        ckpt.close()
    pages = [read(path) for path in sorted(tmp_path.iterdir())]
    assert len(pages) == 3
    assert sum(len(page) for page in pages) == len({series for page in pages for series in page})
    assert sum(("task", "mine/1") in labels for page in pages for _, labels in page) == len(
        read(tmp_path / "asyncckpt-mine_1-0.prom")
    )


def test_a_restarted_job_of_slurm_takes_the_place_of_its_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for step in (1, 2):
        with AsyncCheckpointer(store(f"again-{step}"), model=Toy(), metrics=MetricsConfig(textfile=tmp_path)) as ckpt:
            ckpt.save(step).wait()
    (path,) = tmp_path.iterdir()
    assert total(read(path), "asyncckpt_durable_step") == 2


def test_what_was_pushed_stays_when_the_job_is_over_and_prometheus_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("prometheus", "prometheus-pushgateway")
    from asyncckpt.testing.prometheus import PrometheusServer, PushgatewayServer

    for name in ("gateway", "prometheus"):
        (tmp_path / name).mkdir()
    with PushgatewayServer(tmp_path / "gateway") as gateway:
        monkeypatch.setenv(PUSHGATEWAY, gateway.endpoint)
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            monkeypatch.setenv("SLURM_JOB_ID", "4711")
            with AsyncCheckpointer(store(f"pushed-{rank}"), model=Toy()) as ckpt:
                ckpt.save(9).wait()
        targets = {"pushed": [f"127.0.0.1:{gateway.port}"]}
        with PrometheusServer(tmp_path / "prometheus", targets) as prometheus:
            prometheus.wait_for('sum(asyncckpt_durable_step{task="4711", job="asyncckpt", rank=~"0|1"})', 18)
            prometheus.wait_for("sum(asyncckpt_end_timestamp_seconds > bool 0)", 2)


@pytest.mark.parametrize("where", ["a folder that is not there", "nobody listens", "no address", "an error"])
def test_a_place_that_takes_nothing_is_one_warning_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    with (
        HeldPorts(1) as nobodys,
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy(server.getsockname()[1]) as proxy,
    ):
        (port,) = nobodys.numbers
        proxy.add("answer", status=400, body=b"no")
        config = {
            "a folder that is not there": MetricsConfig(port=None, textfile=tmp_path / "none", every=0.001),
            "nobody listens": MetricsConfig(port=None, pushgateway=f"http://127.0.0.1:{port}", every=0.001),
            "no address": MetricsConfig(port=None, pushgateway="http://[::1", every=0.001),
            "an error": MetricsConfig(port=None, pushgateway=proxy.endpoint, every=0.001),
        }[where]
        with AsyncCheckpointer(store(where), model=Toy(), metrics=config) as ckpt:
            assert ckpt.save(1).wait().step == 1
            if where == "an error":
                proxy.wait_for("PUT /metrics/job/asyncckpt", times=3)
    said = [record.getMessage() for record in caplog.records if "metrics are not reported" in record.getMessage()]
    assert len(said) == 1
    assert "training goes on" in said[0]


def test_a_gateway_that_hangs_does_not_hold_the_end_of_a_training_up_for_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncckpt.metrics.reporting.LAST", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(server.getsockname()[1]) as proxy:
        proxy.add("hang")
        with AsyncCheckpointer(store("hangs"), model=Toy(), metrics=MetricsConfig(pushgateway=proxy.endpoint)) as ckpt:
            proxy.wait_for("PUT")
            assert ckpt.save(1).wait().step == 1
        assert "the last metrics were not taken within 0.1 s" in caplog.text
        assert len(proxy.held) == 1
        proxy.release()


def test_what_has_no_period_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        MetricsConfig(every=0)
