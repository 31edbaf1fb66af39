"""Metrics for Prometheus: ``config`` says where they are to be had, ``instruments`` what they are, ``exporter`` counts;
``reporting`` puts them where nobody comes for them, ``otel`` gives them to OpenTelemetry, ``process`` are those of what
is no checkpointer's.

The exporter is one listener, and nothing that the core knows of.
"""

from asyncckpt.metrics.config import MetricsConfig
from asyncckpt.metrics.exporter import Exporter, exporter

__all__ = ["Exporter", "MetricsConfig", "exporter"]
