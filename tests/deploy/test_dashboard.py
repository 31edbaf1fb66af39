"""The dashboard: what is checked in is what the code builds, and every query has data beside a real training."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import runpy
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from asyncckpt import AsyncCheckpointer, Preemption, RetentionPolicy, SavePolicy
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.proxy import Proxy

from ..checkpointer.trainings import Toy, Training
from .conftest import DEPLOY, hastened, needs

if TYPE_CHECKING:
    from asyncckpt.testing.prometheus import PrometheusServer
    from asyncckpt.testing.s3server import S3Server

DASHBOARD = DEPLOY / "grafana" / "asyncckpt.json"


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [each["expr"] for panel in panels() for each in panel["targets"]]


@pytest.fixture(scope="module")
def trained(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """A Prometheus that has seen a training in a bucket, whose store refused now and then, until it was told to leave;
    and one that could not have the worker process that it asked for.
    """
    needs("prometheus")
    from asyncckpt.testing.prometheus import PrometheusServer

    folder = tmp_path_factory.mktemp("trained")
    (folder / "prometheus").mkdir()
    training, steps = Training(), itertools.count(1)
    with (
        pytest.MonkeyPatch.context() as patched,
        Proxy(s3.port) as proxy,
    ):
        patched.setenv("ASYNCCKPT_RUNTIME_DIR", str(folder / "runtime"))
        told = s3.options(proxy.endpoint, asyncckpt={"attempts": 4, "pause": 0.01})
        policy = SavePolicy(every_seconds=0.05)
        with (
            AsyncCheckpointer(
                "s3://tests/dashboard/run",
                model=training.model,
                optimizer=training.optimizer,
                storage_options=told,
                local=str(folder / "local"),
                executor="process",
                save=policy,
                keep=RetentionPolicy(last=1),
                preemption=Preemption(signals=["SIGUSR1"], deadline=60, exit="flag"),
                metrics=0,
            ) as ckpt,
            AsyncCheckpointer(
                MemoryStorage("dashboard"), model=Toy(), executor="process", save=policy, metrics=0
            ) as other,
        ):
            targets = [f"127.0.0.1:{each.metrics_port}" for each in (ckpt, other)]
            rules = hastened(folder, 100)
            with PrometheusServer(folder / "prometheus", {"trainer": targets}, rules=rules) as server:

                def train() -> None:
                    training.step()
                    step = next(steps)
                    other.step(step)
                    ckpt.step(step)

                train()
                ckpt.save(next(steps)).wait()
                ckpt.restore("latest")
                server.wait_for("asyncckpt_restores_total > 0", doing=train)
                proxy.add("answer", "PUT", times=2)
                server.wait_for("asyncckpt_storage_retries_total", doing=train)
                server.wait_for("increase(asyncckpt_pruned_total[10s]) > 0", doing=train)
                os.kill(os.getpid(), signal.SIGUSR1)
                train()
                server.wait_for('asyncckpt_preemption_outcomes_total{outcome="durable"}')
                yield server


@pytest.mark.long
def test_every_query_of_every_panel_has_data_beside_a_real_training(trained: PrometheusServer) -> None:
    chosen = {"$job": "trainer", "$instance": ".*", "$__rate_interval": "1h", "$__range": "1h"}
    for expression in expressions():
        asked = re.sub(r"\$\w+", lambda found: chosen[found[0]], expression)
        trained.wait_for(asked)
        assert any(math.isfinite(number) for _, number in trained.query(asked)), f"Grafana draws nothing of {asked}"


def test_what_is_checked_in_is_what_the_code_builds() -> None:
    built = runpy.run_path(str(DEPLOY / "grafana" / "dashboard.py"))
    assert DASHBOARD.read_text() == built["text"](), "run python deploy/grafana/dashboard.py"


def test_panels_do_not_lie_on_each_other_and_have_numbers_of_their_own() -> None:
    every = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken = set[tuple[int, int]]()
    for panel in every:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not taken & cells
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_panel_says_what_it_shows_and_is_asked_of_the_chosen_source() -> None:
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert {each["datasource"]["uid"] for each in [panel, *panel["targets"]]} == {"${datasource}"}
