"""Arguments: what `AsyncCheckpointer` refuses at once, by name, instead of going wrong at the first save."""

from __future__ import annotations

from asyncckpt.retention import RetentionPolicy

_CHOICES = {
    "on_busy": ("coalesce", "wait", "skip"),
    "on_failure": ("warn", "raise"),
    "verify": ("sample", "always", "off"),
    "executor": ("auto", "thread", "process"),
}


def check_choices(**given: object) -> None:
    """Refuse what is not one of the words that an argument may be."""
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name}={value!r}: use one of {', '.join(_CHOICES[name])}")


def check_monitor(monitor: object) -> None:
    """Refuse what does not say which metric counts, and whether less or more of it is better."""
    match monitor:
        case None | (str(), "min" | "max"):
            return
        case _:
            raise ValueError(f'monitor={monitor!r}: use ("metric", "min") or ("metric", "max")')


def check_keep(keep: RetentionPolicy | None, monitor: object) -> None:
    """Refuse to keep the best of something that nobody named."""
    if keep is not None and keep.best is not None and monitor is None:
        raise ValueError(f'RetentionPolicy(best={keep.best}) needs monitor=("metric", "min" or "max")')


def refuse_later(**given: object) -> None:
    """Refuse arguments that a later version will give a meaning."""
    for name, value in given.items():
        if value is not None:
            raise NotImplementedError(f"AsyncCheckpointer({name}=) has no effect in this version yet: leave it out")
