"""Where metrics are served: what the caller says, else the environment, else a free port on loopback."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

logger = logging.getLogger("asyncckpt")

PORT = "ASYNCCKPT_METRICS_PORT"
ADDR = "ASYNCCKPT_METRICS_ADDR"
LOOPBACK = "127.0.0.1"


def _port() -> int | None:
    said = os.environ.get(PORT, "").strip()
    try:
        return int(said or 0)
    except ValueError:  # whoever set it is not there to be told, and it is no reason to stop a training
        logger.warning("metrics are not served: %s=%s is not a number; training goes on", PORT, said)
        return None


def _addr() -> str:
    return os.environ.get(ADDR, "").strip() or LOOPBACK


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where metrics are served: `port` 0 takes a free one; None serves nothing and only fills `registry`.

    What is not given is taken from ``ASYNCCKPT_METRICS_PORT`` and ``ASYNCCKPT_METRICS_ADDR``, else it is a free port
    on loopback. A port other than 0 is that of the first rank on a host: each rank adds its ``LOCAL_RANK``.
    """

    port: int | None = field(default_factory=_port)
    addr: str = field(default_factory=_addr)
    registry: CollectorRegistry | None = None
    const_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def own_port(self) -> int | None:
        """The port of this rank."""
        rank = os.environ.get("LOCAL_RANK", "")
        return self.port + int(rank) if self.port and rank.isdecimal() else self.port


def configured(metrics: int | MetricsConfig | None) -> MetricsConfig | None:
    """The configuration that ``metrics=`` asks for. None asks for none, unless the environment names a port."""
    if metrics is None:
        return MetricsConfig() if os.environ.get(PORT, "").strip() else None
    if not isinstance(metrics, int | MetricsConfig):
        raise TypeError(f"metrics={metrics!r}: give a port (0 for any free one) or a MetricsConfig")
    return MetricsConfig(port=metrics) if isinstance(metrics, int) else metrics
