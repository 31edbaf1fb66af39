"""Where metrics are to be had: what the caller says, else the environment, else a free port on loopback."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

logger = logging.getLogger("asyncckpt")

PORT = "ASYNCCKPT_METRICS_PORT"
ADDR = "ASYNCCKPT_METRICS_ADDR"
TEXTFILE = "ASYNCCKPT_METRICS_TEXTFILE"
PUSHGATEWAY = "ASYNCCKPT_METRICS_PUSHGATEWAY"
OTEL = "ASYNCCKPT_METRICS_OTEL"
LOOPBACK = "127.0.0.1"


def _said(variable: str) -> str | None:
    return os.environ.get(variable, "").strip() or None


def _otel() -> bool:
    return (_said(OTEL) or "0").lower() not in ("0", "false", "no", "off")


def _port() -> int | None:
    said = _said(PORT)
    if said is None:
        return None if _said(TEXTFILE) or _said(PUSHGATEWAY) or _otel() else 0
    try:
        return int(said)
    except ValueError:  # whoever set it is not there to be told, and it is no reason to stop a training
        logger.warning("metrics are not served: %s=%s is not a number; training goes on", PORT, said)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where metrics are to be had. `port` 0 takes a free one; None serves nothing. `addr` is the address to listen on.

    `registry` is one of prometheus_client that takes them, in place of a new one; `const_labels` are on each of them.

    `textfile` is a folder that a node exporter reads (``--collector.textfile.directory``): each process has a file of
    its own there, written every `every` seconds and once at the end. `pushgateway` is the address of a Pushgateway,
    which is sent the same. Both are for jobs that end, or that nobody can reach; either fails with a warning.
    `otel` is an OpenTelemetry ``MeterProvider``, or True for the one that the process has: it has the same metrics.

    What is not given is taken from ``ASYNCCKPT_METRICS_PORT``, ``_ADDR``, ``_TEXTFILE``, ``_PUSHGATEWAY`` and
    ``_OTEL`` (``1``); where none says where, it is a free port on loopback. A port other than 0 is that of the first
    rank on a host: each rank adds its ``LOCAL_RANK``. Raises `ValueError` for an `every` that is not above 0.
    """

    port: int | None = field(default_factory=_port)
    addr: str = field(default_factory=lambda: _said(ADDR) or LOOPBACK)
    registry: CollectorRegistry | None = None
    const_labels: Mapping[str, str] = field(default_factory=dict)
    textfile: str | Path | None = field(default_factory=lambda: _said(TEXTFILE))
    pushgateway: str | None = field(default_factory=lambda: _said(PUSHGATEWAY))
    every: float = 15.0
    otel: bool | MeterProvider = field(default_factory=_otel)

    def __post_init__(self) -> None:
        if not self.every > 0:
            raise ValueError(f"MetricsConfig(every={self.every}): give the seconds between two reports, more than 0")

    @property
    def own_port(self) -> int | None:
        """The port of this rank."""
        rank = os.environ.get("LOCAL_RANK", "")
        return self.port + int(rank) if self.port and rank.isdecimal() else self.port


def configured(metrics: int | MetricsConfig | None) -> MetricsConfig | None:
    """The configuration that ``metrics=`` asks for. None asks for none, unless the environment says where."""
    if metrics is None:
        return MetricsConfig() if _said(PORT) or _said(TEXTFILE) or _said(PUSHGATEWAY) or _otel() else None
    if not isinstance(metrics, int | MetricsConfig):
        raise TypeError(f"metrics={metrics!r}: give a port (0 for any free one) or a MetricsConfig")
    return MetricsConfig(port=metrics) if isinstance(metrics, int) else metrics
