"""Reporting: metrics that nobody comes for are put where they can be had, again and again and once at the end.

A node exporter reads all files of its folder as one page, and a Pushgateway serves all that was pushed as one: there
the series of every process need labels of its own, `task` and `rank`, or the whole page is refused.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Metric, push_to_gateway, write_to_textfile
from prometheus_client.registry import Collector

from asyncckpt.metrics.config import MetricsConfig

logger = logging.getLogger("asyncckpt")

PATIENCE = 10.0
"""Seconds that a Pushgateway has for its answer."""

LAST = 1.0
"""Seconds for which the end of a training waits until it was told."""

_tasks: set[str] = set()
"""Of the reporters that are at work in this process."""
_lock = threading.Lock()


class Place(Protocol):
    """Where metrics are put; fails with `OSError`."""

    def put(self, registry: CollectorRegistry) -> None:
        """Have what `registry` says now stand there in place of what stood there."""
        ...


class Textfile:
    """A file that a node exporter reads, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, registry: CollectorRegistry) -> None:
        write_to_textfile(str(self._path), registry)

    def __str__(self) -> str:
        return str(self._path)


class Pushgateway:
    """A group of series on a Pushgateway."""

    def __init__(self, address: str, labels: Mapping[str, str]) -> None:
        self._address = address
        self._labels = dict(labels)

    def put(self, registry: CollectorRegistry) -> None:
        push_to_gateway(self._address, "asyncckpt", registry, grouping_key=self._labels, timeout=PATIENCE)

    def __str__(self) -> str:
        return f"the Pushgateway at {self._address}"


class Reporter:
    """Puts what is in `registry` where `config` says, from now on until `close`."""

    def __init__(self, registry: CollectorRegistry, config: MetricsConfig) -> None:
        self._task = _task()
        given = {name: value for name, value in config.const_labels.items() if name in ("task", "rank")}
        labels = {"task": self._task, "rank": _rank(), **given}
        self._registry = CollectorRegistry()
        self._registry.register(_Labelled(registry, labels))
        self._places = _places(config, labels)
        self._every = config.every
        self._failing: set[Place] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._report, name="asyncckpt metrics", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Report once more, and no more after that; it is left to itself after `timeout` seconds."""
        self._over.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            places = ", ".join(map(str, self._places))
            logger.warning("the last metrics were not taken within %.1f s: %s", timeout, places)
        with _lock:
            _tasks.discard(self._task)

    def _report(self) -> None:
        while not self._over.is_set():
            self._put()
            self._over.wait(self._every)
        self._put()

    def _put(self) -> None:
        for place in self._places:
            try:
                place.put(self._registry)
                self._failing.discard(place)
            except (OSError, ValueError) as error:  # urllib has ValueErrors for addresses that are none
                if place not in self._failing:
                    self._failing.add(place)
                    logger.warning("metrics are not reported: %s: %s; training goes on", place, error)


class _Labelled(Collector):
    """What `registry` has, with more labels."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [each._replace(labels={**self._labels, **each.labels}) for each in metric.samples]
            yield metric


def reporter(registry: CollectorRegistry, config: MetricsConfig) -> Reporter | None:
    """One at work, or None where `config` names no place."""
    return Reporter(registry, config) if config.textfile or config.pushgateway else None


def _places(config: MetricsConfig, labels: Mapping[str, str]) -> Sequence[Place]:
    places = list[Place]()
    if config.textfile:
        name = re.sub(r"[^\w.-]", "_", f"asyncckpt-{labels['task']}-{labels['rank']}")
        places.append(Textfile(Path(config.textfile) / f"{name}.prom"))
    if config.pushgateway:
        places.append(Pushgateway(config.pushgateway, labels))
    return places


def _task() -> str:
    """A name for what this process does, that no other process of the cluster has for its own.

    That of a Slurm job, which is the same once it was put back: then the file of the former start is replaced.
    """
    own = os.environ.get("SLURM_JOB_ID") or f"{socket.gethostname()}-{os.getpid()}"
    with _lock:
        number = 1
        while (name := own if number == 1 else f"{own}-{number}") in _tasks:
            number += 1
        _tasks.add(name)
    return name


def _rank() -> str:
    return os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
