"""OpenTelemetry has the same metrics: same names, same values, in a meter of any provider and over OTLP."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeter, NoOpMeterProvider
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider as Provider
from opentelemetry.sdk.metrics.export import Histogram as Buckets
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric, Sum
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, MetricsConfig
from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.metrics import Exporter
from asyncckpt.metrics.otel import bridge
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from .scraping import Samples, scrape, total
from .trainings import Toy, outcome, start

OTEL = "ASYNCCKPT_METRICS_OTEL"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "ADDR", "TEXTFILE", "PUSHGATEWAY", "OTEL"):
        monkeypatch.delenv(f"ASYNCCKPT_METRICS_{name}", raising=False)


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[Provider]:
    provider = Provider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def metrics(reader: InMemoryMetricReader) -> dict[str, Metric]:
    """What is collected now, by name; no name is there twice."""
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert scope.scope.name == "asyncckpt"
    found = {metric.name: metric for metric in scope.metrics}
    assert len(found) == len(scope.metrics)
    return found


def as_scraped(found: dict[str, Metric]) -> Samples:
    """The same as Prometheus would have it, once it was translated as Prometheus and the Collector do."""
    samples: Samples = {}
    for name, metric in found.items():
        for point in metric.data.data_points:
            labels = frozenset((point.attributes or {}).items())
            if isinstance(metric.data, Buckets):
                samples[f"{name}_sum", labels] = point.sum
                samples[f"{name}_count", labels] = point.count
                bounds = [*map(float, point.explicit_bounds), float("inf")]
                for at, bound in enumerate(bounds):
                    key = f"{name}_bucket", labels | {("le", "+Inf" if bound == float("inf") else str(bound))}
                    samples[key] = sum(point.bucket_counts[: at + 1])
            else:
                # The two parts of a summary are a counter each.
                has_total = isinstance(metric.data, Sum) and not name.endswith(("_sum", "_count"))
                samples[f"{name}_total" if has_total else name, labels] = point.value
    return samples


def busy(name: str, config: MetricsConfig) -> None:
    """A training that has saved, failed and restored, and is over."""
    store = GatedStorage(MemoryStorage(name))
    with AsyncCheckpointer(store, model=Toy(), metrics=config) as ckpt:
        ckpt.save(1).wait()
        store.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"), times=1)
        with pytest.raises(SaveFailed):
            ckpt.save(2).wait()
        ckpt.save(3).wait()
        ckpt.restore("latest")


def test_every_metric_is_there_with_the_value_that_a_scrape_has(
    reader: InMemoryMetricReader, provider: Provider
) -> None:
    registry = CollectorRegistry()
    busy("otel-same", MetricsConfig(port=None, registry=registry, const_labels={"run": "a"}, otel=provider))
    found = metrics(reader)
    collected, scraped = as_scraped(found), scrape(registry)
    # What was never observed is no series of a histogram there, and 0 here.
    seen = {key: number for key, number in scraped.items() if key in collected or number}
    assert collected == seen
    assert all(name.endswith(("_bucket", "_sum", "_count")) for name, _ in scraped.keys() - seen.keys())
    assert total(collected, "asyncckpt_durable_step", run="a") == 3
    assert total(collected, "asyncckpt_saves_total", outcome="durable") == 2
    assert total(collected, "asyncckpt_storage_errors_total", reason="full") == 1
    assert total(collected, "asyncckpt_stall_seconds_count", where="call") == 3
    assert total(collected, "asyncckpt_end_timestamp_seconds") > 0


def test_units_and_meanings_are_those_of_the_names(reader: InMemoryMetricReader, provider: Provider) -> None:
    registry = CollectorRegistry()
    busy("otel-units", MetricsConfig(port=None, registry=registry, otel=provider))
    found = metrics(reader)
    texts = {family.name: family.documentation for family in registry.collect()}
    for name, metric in found.items():
        family = name if name in texts else name.removesuffix("_sum").removesuffix("_count")
        assert metric.description == texts[family]
        unit = {"seconds": "s", "bytes": "By", "ratio": "1"}.get(name.removesuffix("_sum").split("_")[-1], "")
        assert metric.unit == unit, name
    units = {name: found[f"asyncckpt_{name}"].unit for name in ("stall_seconds", "bytes", "pace_ratio", "saves")}
    assert units == {"stall_seconds": "s", "bytes": "By", "pace_ratio": "1", "saves": ""}


def test_several_in_a_process_are_one_there_and_what_is_closed_stays(
    reader: InMemoryMetricReader, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    config = MetricsConfig(port=None, otel=provider)
    for name in ("otel-first", "otel-second"):
        busy(name, config)
    collected = as_scraped(metrics(reader))
    assert total(collected, "asyncckpt_saves_total", outcome="durable") == 4
    assert total(collected, "asyncckpt_save_duration_seconds_count") == 4
    assert total(collected, "asyncckpt_run_info", backend="memory") == 1
    busy("otel-named", MetricsConfig(port=None, otel=provider, const_labels={"run": "named"}))
    collected = as_scraped(metrics(reader))
    assert total(collected, "asyncckpt_saves_total", outcome="durable") == 6
    assert total(collected, "asyncckpt_saves_total", outcome="durable", run="named") == 2
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


class Refusing(NoOpMeter):
    """A meter of which one method fails."""

    def __init__(self, method: str) -> None:
        super().__init__("refusing")
        self._method = method

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("create_") and name == super().__getattribute__("_method"):
            raise RuntimeError("not today")
        return super().__getattribute__(name)


class Failing(NoOpMeterProvider):
    """A provider of which one method fails, or one of its meters."""

    def __init__(self, method: str) -> None:
        self._method = method

    def get_meter(self, *arguments: Any, **more: Any) -> Meter:
        if self._method == "get_meter":
            raise RuntimeError("not today")
        return Refusing(self._method)


@pytest.mark.parametrize(
    "method", ["get_meter", "create_observable_gauge", "create_observable_counter", "create_histogram"]
)
def test_a_provider_that_fails_is_one_warning_and_training_goes_on(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    busy(f"otel-{method}", MetricsConfig(port=None, registry=registry, otel=Failing(method)))
    assert total(scrape(registry), "asyncckpt_durable_step") == 3
    said = [record for record in caplog.records if "OpenTelemetry" in record.message]
    assert [(record.levelno, "not today" in record.message) for record in said] == [(logging.WARNING, True)]


def test_without_its_library_a_warning_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(OTEL, "1")
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    monkeypatch.delitem(sys.modules, "asyncckpt.metrics.otel")
    with AsyncCheckpointer(MemoryStorage("otel-without"), model=Toy()) as ckpt:
        ckpt.save(1).wait()
        assert ckpt.metrics_port is None
    assert "pip install 'asyncckpt[otel]'; training goes on" in caplog.text


@pytest.mark.parametrize("said", ["", "0", "false", "No", " off "])
def test_the_environment_can_say_no(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OTEL, said)
    assert MetricsConfig().otel is False
    assert MetricsConfig().port == 0


def test_a_checkpointer_that_is_made_again_adds_no_registry_that_would_stay(provider: Provider) -> None:
    config = MetricsConfig(port=None, otel=provider)
    assert Exporter(config).registry is Exporter(config).registry
    assert Exporter(replace(config, const_labels={"run": "a"})).registry is not Exporter(config).registry
    assert Exporter(replace(config, otel=False)).registry is not Exporter(config).registry


def test_the_bridge_of_a_provider_is_one() -> None:
    one: MeterProvider = NoOpMeterProvider()
    assert bridge(one) is bridge(one) is not bridge(NoOpMeterProvider())
    assert bridge(True) is bridge(True)


PROGRAM = """
import sys, torch
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from asyncckpt import AsyncCheckpointer
from asyncckpt.storage import MemoryStorage

def train(name, step):
    with AsyncCheckpointer(MemoryStorage(name), model=torch.nn.Linear(2, 2)) as ckpt:
        assert ckpt.metrics_port is None
        ckpt.save(step).wait()

train("before", 4)
set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=sys.argv[1]))]))
train("after", 7)
"""


@contextmanager
def receiver() -> Iterator[tuple[str, list[ExportMetricsServiceRequest]]]:
    """Takes what is sent by OTLP over HTTP."""
    taken: list[ExportMetricsServiceRequest] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(ExportMetricsServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/metrics", taken
        finally:
            server.shutdown()
            thread.join()


def test_a_program_without_a_word_of_metrics_has_them_sent_by_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OTEL, "1")
    for name in ("OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_SDK_DISABLED", "OTEL_METRIC_EXPORT_INTERVAL"):
        monkeypatch.delenv(name, raising=False)
    with receiver() as (address, taken):
        status, _, errors = outcome(start(PROGRAM, address))
        assert (status, errors) == (0, "")
    (resource,) = taken[-1].resource_metrics
    (scope,) = resource.scope_metrics
    found = {metric.name: metric for metric in scope.metrics}
    (step,) = found["asyncckpt_durable_step"].gauge.data_points
    assert step.as_double == 7
    durable = [
        point.as_double
        for point in found["asyncckpt_saves"].sum.data_points
        if point.attributes[0].value.string_value == "durable"
    ]
    assert durable == [2]
    assert found["asyncckpt_saves"].sum.is_monotonic
    (seconds,) = found["asyncckpt_save_duration_seconds"].histogram.data_points
    # What was observed before there was a provider, nobody has recorded.
    assert seconds.count == 1
