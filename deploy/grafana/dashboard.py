"""Builds asyncckpt.json, the dashboard beside this file: ``python deploy/grafana/dashboard.py`` writes it anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("asyncckpt.json")
WIDTH = 24
"""Columns that Grafana has."""

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_CHOSEN = '{job=~"$job", instance=~"$instance"}'
"""What every series is chosen by; ``~`` stands for it in the queries below."""


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries` by legend. `unit` is one of Grafana's."""

    title: str
    unit: str
    queries: dict[str, str]
    says: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 7


def _quantiles(metric: str, by: str = "") -> dict[str, str]:
    within, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    return {
        f"{name}{legend}": f"histogram_quantile({q}, sum by ({within}) (rate({metric}_bucket~[$__rate_interval])))"
        for name, q in {"median": 0.5, "p99": 0.99}.items()
    }


def _increase(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) (increase({metric}~[$__rate_interval]))"


def _rate(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}~[$__rate_interval]))"


ROWS: dict[str, Sequence[Panel]] = {
    "What a kill would cost": (
        Panel(
            "At risk now",
            "s",
            {"{{instance}}": "asyncckpt:at_risk:seconds~"},
            "Training since the newest durable checkpoint, or since the start.",
            kind="stat",
            width=6,
        ),
        Panel(
            "Newest durable step",
            "none",
            {"{{instance}}": "asyncckpt_durable_step~"},
            "Of the newest checkpoint that counts.",
            kind="stat",
            width=6,
        ),
        Panel(
            "Failed saves",
            "none",
            {"failed": "sum(increase(asyncckpt_save_failures_total~[$__range]))"},
            "In the time that is shown.",
            kind="stat",
            width=6,
        ),
        Panel(
            "Damaged checkpoints found",
            "none",
            {"damaged": "sum(asyncckpt_damaged_checkpoints_total~)"},
            "By the trainings that are alive.",
            kind="stat",
            width=6,
        ),
        Panel(
            "At risk, and when it is too much",
            "s",
            {
                "{{instance}}": "asyncckpt:at_risk:seconds~",
                "limit {{instance}}": "asyncckpt:at_risk_limit:seconds~",
            },
            "A saw that stays below its limit. AsyncCkptStale fires above it.",
            width=12,
        ),
        Panel(
            "Asked for and durable",
            "none",
            {"asked {{instance}}": "asyncckpt_requested_step~", "durable {{instance}}": "asyncckpt_durable_step~"},
            "The step of the newest save call, and of the newest checkpoint. What lies between is under way.",
            width=12,
        ),
        Panel(
            "How saves end",
            "none",
            {"{{outcome}}": _increase("asyncckpt_saves_total", "outcome")},
            "Dropped ones (skipped, superseded) had a newer one come first.",
        ),
        Panel(
            "Failures by phase",
            "none",
            {"{{phase}}": _increase("asyncckpt_save_failures_total", "phase")},
            "Nothing partial is ever listed.",
        ),
        Panel("From the call to durable", "s", _quantiles("asyncckpt_save_duration_seconds"), "Of whole saves."),
    ),
    "What training pays": (
        Panel(
            "Held, of all time",
            "percentunit",
            {"{{instance}}": "asyncckpt:stall:ratio_rate5m~"},
            "Share of its time that the training thread was held.",
        ),
        Panel(
            "Held, each time",
            "s",
            _quantiles("asyncckpt_stall_seconds", "where"),
            "In the save call, and in the guard at the optimizer.",
        ),
        Panel(
            "Steps with and without a save in flight",
            "s",
            {"saving: {{saving}}": "asyncckpt_step_seconds~"},
            "0 until it is known.",
        ),
        Panel(
            "Slowdown",
            "percentunit",
            {"is": "asyncckpt_slowdown_ratio~", "may be": "asyncckpt_slowdown_target_ratio~"},
            "How much longer a step takes with a save in flight.",
        ),
        Panel("Pace of the background", "percentunit", {"{{instance}}": "asyncckpt_pace_ratio~"}, "1 is all it can."),
        Panel(
            "Over the budget for stalls",
            "none",
            {"{{outcome}}": _increase("asyncckpt_over_budget_total", "outcome")},
            "Budget(stall_ms=).",
        ),
    ),
    "The way to the store": (
        Panel(
            "Where the time of a save goes",
            "s",
            {
                "{{phase}}": _rate("asyncckpt_phase_seconds_sum", "phase")
                + f" / ({_rate('asyncckpt_phase_seconds_count', 'phase')} > 0)"
            },
            "Mean of each phase; they overlap.",
        ),
        Panel(
            "Bytes",
            "Bps",
            {"{{direction}}": _rate("asyncckpt_bytes_total", "direction")},
            "Written is less than staged where a checkpoint shares what did not change.",
        ),
        Panel("Copies into host memory", "s", _quantiles("asyncckpt_stage_seconds"), "From the call to a snapshot."),
        Panel(
            "Queue",
            "none",
            {"waiting": "sum(asyncckpt_queued_saves~)", "being written": "sum(asyncckpt_writing_saves~)"},
            "Saves.",
        ),
        Panel(
            "Staging memory",
            "bytes",
            {
                "{{state}}": "sum by (state) (asyncckpt_staging_bytes~)",
                "limit": "sum(asyncckpt_staging_capacity_bytes~)",
            },
            "Of all processes.",
        ),
        Panel(
            "Kept",
            "bytes",
            {"{{instance}}": "asyncckpt_retained_bytes~ > 0"},
            "What the catalog lists, each pack once.",
        ),
        Panel(
            "Worker: last sign of life",
            "s",
            {"{{instance}}": "time() - (asyncckpt_worker_heartbeat_timestamp_seconds~ > 0)"},
            "It gives one every five seconds. Empty where saves run in a thread.",
        ),
        Panel(
            "Worker: starts",
            "none",
            {"{{instance}}": "asyncckpt_worker_starts_total~"},
            "One, and one for each that died.",
        ),
        Panel(
            "Checkpoints dropped",
            "none",
            {"{{rule}}": _increase("asyncckpt_pruned_total", "rule")},
            "By what dropped them.",
        ),
    ),
    "The stores": (
        Panel(
            "Errors",
            "none",
            {"{{backend}} {{reason}}": _increase("asyncckpt_storage_errors_total", "backend", "reason")},
            "What failed since the store did.",
        ),
        Panel(
            "Requests made again",
            "reqps",
            {"{{backend}} {{reason}}": _rate("asyncckpt_storage_retries_total", "backend", "reason")},
            "Of object stores. Empty where none was.",
        ),
        Panel(
            "Tiers behind",
            "s",
            {"{{tier}} {{instance}}": "asyncckpt:tier_behind:seconds~"},
            "How much training lies between what a tier has and what the furthest one has.",
        ),
        Panel(
            "Only on the local disk",
            "bytes",
            {"{{instance}}": "asyncckpt_local_ahead_bytes~"},
            "What the root has not got yet.",
        ),
        Panel(
            "Slower or weaker",
            "none",
            {
                "{{feature}}": "sum by (feature) (asyncckpt_fallback~)",
                "too little {{resource}}": "sum by (resource) (asyncckpt_shortage~)",
            },
            "How many processes lack something.",
        ),
        Panel(
            "Taken by another process",
            "none",
            {"{{instance}}": "asyncckpt_fenced~"},
            "1: nothing that this one saves becomes durable any more.",
        ),
    ),
    "Coming back, and leaving": (
        Panel(
            "Restores",
            "none",
            {"{{outcome}}": "sum by (outcome) (asyncckpt_restores_total~)"},
            "Of the trainings that are alive.",
        ),
        Panel(
            "Time to restore",
            "s",
            {
                "{{instance}}": "asyncckpt_restore_duration_seconds_sum~"
                " / (asyncckpt_restore_duration_seconds_count~ > 0)"
            },
            "Mean of each process.",
        ),
        Panel(
            "Preemptions",
            "none",
            {
                "{{outcome}}": "sum by (outcome) (asyncckpt_preemption_outcomes_total~)",
                "noticed by {{source}}": "sum by (source) (asyncckpt_preemption_notices_total~)",
            },
            "Empty where there was none.",
        ),
        Panel(
            "What runs",
            "none",
            {
                "": "asyncckpt_run_info~ * on (job, instance) group_left (version, torch, python)"
                " group by (job, instance, version, torch, python) (asyncckpt_build_info~)"
            },
            "One line for each process.",
            kind="table",
            width=24,
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """What Grafana is given."""
    return {
        "uid": "asyncckpt",
        "title": "asyncckpt",
        "description": "Checkpoints of trainings: what a kill would cost, what training pays, where time and bytes go.",
        "tags": ["asyncckpt"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {"list": [_datasource(), _variable("job", ""), _variable("instance", 'job=~"$job"')]},
        "annotations": {"list": [_alerts()]},
        "panels": list(_panels()),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(label: str, within: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values(asyncckpt_build_info{{{within}}}, {label})", "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "enable": True,
        "datasource": _SOURCE,
        "expr": f'ALERTS{{alertname=~"AsyncCkpt.+", alertstate="firing", {_CHOSEN[1:]}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}}",
        "iconColor": "red",
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, row in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
        }
        x, y = 0, y + 1
        for panel in row:
            number += 1
            if x + panel.width > WIDTH:
                x, y = 0, y + panel.height
            yield _panel(panel, number, x, y)
            x += panel.width
        y += row[-1].height


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if panel.kind == "stat":
        more = {"options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": expression.replace("~", _CHOSEN),
                "legendFormat": legend,
                "instant": panel.kind == "table",
                "range": panel.kind != "table",
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for at, (legend, expression) in enumerate(panel.queries.items())
        ],
        **more,
    }


def text() -> str:
    """The file, as it is checked in."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
