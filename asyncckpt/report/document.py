"""Document: what stands on the page of a run, in which order; how it looks is for ``markdown`` and ``page``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from asyncckpt.configuration.masking import without_logins
from asyncckpt.report.checkpoints import Line, lines
from asyncckpt.report.gathering import Gathered
from asyncckpt.report.pictures import Picture, pictures
from asyncckpt.report.words import number
from asyncckpt.sizes import size

_SAMPLES = 5
_SAMPLE = 600
"""Characters that are shown of one text that the model has made."""


@dataclass(frozen=True)
class Table:
    """Rows under headings; numbers, the columns in `right`, end flush."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Code:
    """Text as it stands."""

    text: str


@dataclass(frozen=True)
class Note:
    """A sentence."""

    text: str
    is_bad: bool = False


Block: TypeAlias = Table | Code | Note | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


def sections(run: Gathered) -> list[Section]:
    """The page of `run`; sections that have nothing to say are left out."""
    curves, timeline = pictures(run)
    found = [
        Section("", [Table(["", ""], list(_facts(run))), *(Note(text, is_bad=True) for text in run.problems)]),
        results(run),
        Section("Metrics", [*_metrics(run), *curves]),
        Section("Checkpoints", [*_checkpoints(lines(run)), *timeline]),
        *about(run),
    ]
    return [section for section in found if section.blocks]


def results(run: Gathered) -> Section:
    """What came of it."""
    return Section("Results", list(_results(run.results)))


def about(run: Gathered) -> list[Section]:
    """How `run` was started, and on what."""
    found = [
        Section("Hyperparameters", _table(run.hyperparameters)),
        Section("Model", _table(run.config.get("model"))),
        Section("Data", _table(run.config.get("dataset"))),
        Section("Configuration", _json(run.config.get("config"))),
        Section("Hardware", _table(run.config.get("hardware"))),
        Section("Starts", _starts(run.starts)),
        Section("Logs", [Code("\n".join(run.logs))] if run.logs else []),
    ]
    return [section for section in found if section.blocks]


def _facts(run: Gathered) -> Iterator[tuple[str, str]]:
    identity = run.identity
    version = identity.get("code_version")
    code = f"{version.get('hash')}{'-dirty' if version.get('dirty') else ''}" if isinstance(version, Mapping) else ""
    best = run.listing.best
    facts = {
        "Run": run.name,
        "Name": str(identity.get("name", "")),
        "Root": without_logins(run.url),
        "Status": f"{run.status}, last step {run.latest_step:,}",
        "Created": str(identity.get("created", "")),
        "Code version": code,
        "Started": f"{len(run.starts)} times" if len(run.starts) > 1 else "once" if run.starts else "",
        "W&B": " ".join(str(run.wandb[key]) for key in ("run_id", "run_url") if run.wandb.get(key)),
        "Checkpoints": f"{len(run.listing.checkpoints)} listed, {size(sum(c.size for c in run.listing.checkpoints))}",
    }
    if best is not None and (monitor := run.listing.monitor) is not None:
        facts["Best"] = f"{monitor[0]} {number(best.metrics[monitor[0]])} at step {best.step:,} ({best.seq:08d})"
    yield from ((name, value) for name, value in facts.items() if value)


def _results(results: Mapping[str, Any]) -> Iterator[Block]:
    if not results:
        return
    metrics = results.get("final_metrics")
    rows = [[name, number(value)] for name, value in metrics.items()] if isinstance(metrics, Mapping) else []
    rows += [[name, str(results[name])] for name in ("best_checkpoint", "timestamp") if results.get(name)]
    yield Table(["", ""], rows, frozenset())
    samples = results.get("generation_samples")
    for sample in samples[:_SAMPLES] if isinstance(samples, list) else ():
        text = str(sample)
        yield Code(text if len(text) <= _SAMPLE else f"{text[:_SAMPLE]} ... ({len(text):,} characters in all)")


def _metrics(run: Gathered) -> Iterator[Block]:
    history = run.history
    if not history.rows:
        yield Note("Nothing was logged: neither a metrics log in the root or in logs/, nor metrics of checkpoints.")
        return
    if run.is_of_checkpoints:
        yield Note("There is no metrics log in the root or in logs/: these are what the checkpoints carry.")
    headings = ["Metric", "Final", "Min", "Max", "Mean", "Steps", "Not finite"]
    rows = [
        [
            name,
            *map(number, (s.final, s.min, s.max, s.mean)),
            f"{s.count:,}",
            f"{s.not_finite:,}" if s.not_finite else "",
        ]
        for name, s in history.summary().items()
    ]
    yield Table(headings, rows, frozenset(headings[1:]))
    if history.resumed:
        steps = ", ".join(f"{step:,}" for step in history.resumed)
        left = f"; {len(history.superseded):,} rows of what was given up count nowhere" if history.superseded else ""
        yield Note(f"Training went on from step {steps}{left}.")


def _checkpoints(found: Sequence[Line]) -> Iterator[Block]:
    if not found:
        yield Note("There is no checkpoint.")
        return
    headings = ["Id", "Step", "Epoch", "Saved", "Took", "Size", "Written", "State", "Why", "Metrics"]
    rows = [
        [
            line.id,
            "" if line.step < 0 else f"{line.step:,}",
            "" if line.epoch is None else str(line.epoch),
            _when(line.created),
            "" if line.seconds is None else f"{line.seconds:.2f} s",
            "" if line.size is None else size(line.size),
            "" if line.written is None else size(line.written),
            line.state,
            line.fate,
            " ".join(f"{name}={number(value)}" for name, value in line.metrics.items()),
        ]
        for line in found
    ]
    yield Table(headings, rows, frozenset({"Step", "Epoch", "Took", "Size", "Written"}))
    if all(line.seconds is None for line in found):
        yield Note("How long saves took is in checkpoints.jsonl, which this run does not keep (JsonLinesTracker does).")


def _starts(starts: Sequence[Mapping[str, Any]]) -> list[Block]:
    headings = ["Time", "Mode", "Code version", "Host", "Process"]
    keys = ("time", "mode", "code_version", "hostname", "pid")
    rows = [[str(start.get(key, "")) for key in keys] for start in starts]
    return [Table(headings, rows)] if rows else []


def _table(values: Any) -> list[Block]:
    if not isinstance(values, Mapping) or not values:
        return []
    rows = [[str(name), _plain(value)] for name, value in values.items() if value is not None]
    return [Table(["", ""], rows)]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _json(values: Any) -> list[Block]:
    if not values:
        return []
    return [Code(json.dumps(values, indent=2, ensure_ascii=False))]


def _when(created: float | None) -> str:
    if created is None:
        return ""
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M:%S")
