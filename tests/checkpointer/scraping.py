"""How the tests read metrics: over HTTP, as a Prometheus server does."""

from __future__ import annotations

import http.client
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from asyncckpt.testing.slow import PATIENCE

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def page(port: int | None) -> str:
    """What is served."""
    assert port is not None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def samples(families: Iterable[Metric]) -> Samples:
    """Every sample, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def scrape(source: int | CollectorRegistry | None) -> Samples:
    """Every sample that is served on a port, or in a registry."""
    if isinstance(source, CollectorRegistry):
        return samples(source.collect())
    return samples(text_string_to_metric_families(page(source)))


def total(samples: Samples, name: str, **labels: str) -> float:
    """All that have at least these labels, together; raises if there are none."""
    found = [number for (known, having), number in samples.items() if known == name and having >= set(labels.items())]
    assert found, f"no {name} with {labels}"
    return sum(found)


def value(samples: Samples, name: str, **labels: str) -> float:
    """One of them."""
    return samples[name, frozenset(labels.items())]
