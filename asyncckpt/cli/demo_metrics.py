"""The trainer's own metrics, read over HTTP as Prometheus reads them."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping

import click
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]

SHOWN = (
    "asyncckpt_saves",
    "asyncckpt_stall_seconds",
    "asyncckpt_save_duration_seconds",
    "asyncckpt_durable_step",
    "asyncckpt_bytes",
)


def scrape(port: int) -> str:
    """The metrics page on a loopback port; raises `click.ClickException` if nothing answers."""
    # No proxy reaches this machine's loopback.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            text: str = page.read().decode()
    except OSError as error:
        raise click.ClickException(f"the trainer's metrics do not answer on port {port}: {error}") from error
    return text


def headlines(page: str) -> Iterator[str]:
    """The few lines of a metrics page that say how saving goes."""
    families = {family.name: family for family in text_string_to_metric_families(page)}
    for family in (families[name] for name in SHOWN if name in families):
        yield from _histograms(family) if family.type == "histogram" else _values(family)


def _values(family: Metric) -> Iterator[str]:
    for sample in family.samples:
        yield f"{sample.name}{_braced(sample.labels)} {sample.value:.0f}"


def _histograms(family: Metric) -> Iterator[str]:
    """Each histogram of the family in words: how many, the mean, and the bucket that holds the median."""
    for sample in family.samples:
        if sample.name.endswith("_count") and sample.value:
            count, labels = sample.value, sample.labels
            mean, median = _total(family, labels) / count, _median(family, labels, count)
            yield (
                f"{family.name}{_braced(labels)}: {count:.0f} times, "
                f"mean {1e3 * mean:.2f} ms, half of them within {1e3 * median:g} ms"
            )


def _braced(labels: Labels) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _total(family: Metric, labels: Labels) -> float:
    return sum(s.value for s in family.samples if s.name.endswith("_sum") and s.labels == labels)


def _median(family: Metric, labels: Labels, count: float) -> float:
    """The upper bound of the bucket that holds the median."""
    buckets = (sample for sample in family.samples if sample.name.endswith("_bucket"))
    return min(
        float(sample.labels["le"])
        for sample in buckets
        if sample.labels == {**labels, "le": sample.labels["le"]} and sample.value >= count / 2
    )
