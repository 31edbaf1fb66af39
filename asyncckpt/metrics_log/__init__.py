"""Metrics log: what a training measured and what became of its saves, as JSON lines beside its checkpoints.

``rows`` says what a line is, ``lines`` is a file of them, ``spool`` brings one to a store that cannot append,
``journal`` is either and never fails a training, ``log`` and ``timeline`` are what is written, ``history`` reads it.
"""

from asyncckpt.metrics_log.history import History, Summary, read_metrics
from asyncckpt.metrics_log.log import MetricsLog
from asyncckpt.metrics_log.rows import Row
from asyncckpt.metrics_log.timeline import CheckpointLog, read_checkpoints

__all__ = ["CheckpointLog", "History", "MetricsLog", "Row", "Summary", "read_checkpoints", "read_metrics"]
