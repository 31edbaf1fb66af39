"""Aliases: what the fields of the schema are called elsewhere, accepted with a warning.

Every word has one place. Where a configuration says a thing twice, by two names, both have to say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from asyncckpt.launch.config.environment import Place
from asyncckpt.launch.config.scalars import Wrong, plain, scalar

Values: TypeAlias = dict[str, Any]

_SAME: Mapping[str, Sequence[str]] = {
    "experiment_name": ("name",),
    "model.name": ("model.type",),
    "training.epochs": ("training.num_epochs", "training.max_epochs", "training.num_train_epochs"),
    "training.batch_size": ("training.train_batch_size", "training.per_device_train_batch_size"),
    "training.learning_rate": ("optimizer.learning_rate", "optimizer.lr", "training.lr"),
    "training.gradient_accumulation_steps": ("training.grad_accumulation", "training.accumulate_grad_batches"),
    "training.max_grad_norm": ("training.gradient_clipping", "training.grad_clip", "training.clip_grad_norm"),
    "data.dataset_name": ("data.name", "data.dataset"),
    "optimizer.name": ("optimizer.type",),
    "scheduler.name": ("scheduler.type",),
    "scheduler.warmup_steps": ("scheduler.num_warmup_steps", "scheduler.warmup"),
    "slurm.time_limit": ("slurm.time",),
    "slurm.mem": ("slurm.memory",),
    "logging.log_level": ("logging.level",),
    "checkpoint.save_every_n_epochs": ("checkpoint.every_epochs", "checkpoint.save_every_epochs"),
    "checkpoint.save_every_n_steps": (
        "checkpoint.every_steps",
        "checkpoint.save_every_steps",
        "checkpoint.save_interval",
    ),
    "checkpoint.save_on_best": (
        "checkpoint.on_best",
        "checkpoint.save_best",
        "checkpoint.save_on_best_metric",
        "checkpoint.save_best_only",
    ),
    "checkpoint.save_top_k": ("checkpoint.best", "checkpoint.keep_best", "checkpoint.keep_best_n"),
    "checkpoint.keep_last": (
        "checkpoint.last",
        "checkpoint.keep_last_n",
        "checkpoint.max_checkpoints",
        "checkpoint.save_total_limit",
    ),
    "checkpoint.keep_every_n_epochs": ("checkpoint.keep_every_epochs", "checkpoint.every_n_epochs"),
    "checkpoint.keep_every_n_steps": ("checkpoint.keep_every_steps",),
    "checkpoint.monitor": ("checkpoint.metric", "checkpoint.best_metric", "checkpoint.monitor_metric"),
    "checkpoint.checkpoint_dir": ("checkpoint.root", "checkpoint.dir", "checkpoint.save_dir"),
    "preemption.requeue": ("preemption.requeue_job",),
}

_ALIASES = {alias: path for path, aliases in _SAME.items() for alias in aliases}


def _minutes(seconds: Any) -> float | None:
    return None if seconds is None else float(scalar(float, plain(seconds))) / 60


def _mode(is_minimized: Any) -> str:
    return "min" if _is_true(is_minimized) else "max"


def _is_true(value: Any) -> bool:
    return bool(scalar(bool, plain(value)))


_CONVERTED: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "checkpoint.every_seconds": ("checkpoint.save_every_n_minutes", _minutes),
    "checkpoint.minimize_metric": ("checkpoint.mode", _mode),
    "preemption.max_checkpoint_sec": ("preemption.timeout_minutes", _minutes),
}

_INTERVAL, _IN_EPOCHS, _BEST_ONLY = (
    f"checkpoint.{word}" for word in ("interval", "interval_in_epochs", "save_best_only")
)
_PERIODIC = [f"checkpoint.save_every_n_{unit}" for unit in ("epochs", "steps", "minutes")]


def renamed(values: Values) -> tuple[list[str], dict[str, str]]:
    """Rename in place; returns what a person should know, and what cannot be, by path."""
    warnings: list[str] = []
    problems: dict[str, str] = {}
    is_best_only = str(_get(values, _BEST_ONLY)).lower() == "true"
    for alias, path, convert in (*_known(), *_intervals(values, problems)):
        if not _holds(values, alias):
            continue
        given = _take(values, alias)
        try:
            value = convert(given)
        except Wrong as wrong:
            problems[alias] = str(wrong)
            continue
        if not _holds(values, path):
            _put(values, path, value)
        elif _get(values, path) != value:
            problems[alias] = (
                f"is {given!r}, and {path}, which means the same, is {_get(values, path)!r}; leave one out"
            )
        warnings.append(f"{alias} is called {path} here, and was taken for it")
    if is_best_only:
        if others := [path for path in _PERIODIC if _get(values, path) is not None]:
            problems[_BEST_ONLY] = f"is True, and {others[0]} saves others too; leave one out"
        _put(values, _PERIODIC[0], None)  # left out, it means each epoch
    return warnings, problems


def _intervals(values: Values, problems: dict[str, str]) -> list[tuple[str, str, Callable[[Any], Any]]]:
    """What a number means that counts steps, or epochs where another key says so; that key is taken out."""
    if not _holds(values, _INTERVAL):
        return []
    unit = "steps"
    if _holds(values, _IN_EPOCHS):
        try:
            unit = "epochs" if _is_true(_take(values, _IN_EPOCHS)) else "steps"
        except Wrong as wrong:
            problems[_IN_EPOCHS] = str(wrong)
    return [(_INTERVAL, f"checkpoint.save_every_n_{unit}", _itself)]


def called(path: str) -> str:
    """What a dotted path is called here."""
    return next((ours for alias, ours, _ in _known() if alias == path), path)


def meant(path: str, value: Any) -> tuple[str, Any]:
    """What a dotted path, and its value, are here; raises `Wrong` for a value that it cannot have."""
    for alias, ours, convert in _known():
        if path == alias:
            return ours, convert(value)
    return path, value


def placed(place: Place) -> Place:
    """Where a value is here that is at `place` in a configuration of others."""
    ours = _ALIASES.get(".".join(map(str, place)))
    return tuple(ours.split(".")) if ours else place


def _known() -> list[tuple[str, str, Callable[[Any], Any]]]:
    same = [(alias, path, _itself) for alias, path in _ALIASES.items()]
    return [*same, *((alias, path, convert) for alias, (path, convert) in _CONVERTED.items())]


def _itself(value: Any) -> Any:
    return value


def _section(values: Values, path: str) -> tuple[Values | None, str]:
    """The mapping that `path` lies in, if there is one, and its last word."""
    above, _, word = path.rpartition(".")
    inside = values.get(above) if above else values
    return (inside if isinstance(inside, dict) else None), word


def _holds(values: Values, path: str) -> bool:
    inside, word = _section(values, path)
    return inside is not None and word in inside


def _get(values: Values, path: str) -> Any:
    inside, word = _section(values, path)
    return None if inside is None else inside.get(word)


def _take(values: Values, path: str) -> Any:
    inside, word = _section(values, path)
    return None if inside is None else inside.pop(word)


def _put(values: Values, path: str, value: Any) -> None:
    above, _, word = path.rpartition(".")
    inside = values.setdefault(above, {}) if above else values
    if isinstance(inside, dict):
        inside[word] = value
