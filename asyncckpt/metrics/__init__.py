"""Metrics for Prometheus: ``config`` says where they are served, ``instruments`` what they are, ``exporter`` counts.

The exporter is one listener, and nothing that the core knows of.
"""

from asyncckpt.metrics.config import MetricsConfig
from asyncckpt.metrics.exporter import Exporter, exporter

__all__ = ["Exporter", "MetricsConfig", "exporter"]
