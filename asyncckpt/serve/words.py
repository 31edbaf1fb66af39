"""Words: how pages write moments, spans of time and links."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from asyncckpt.serve.scales import END_OF_TIME

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def when(moment: float | None) -> str:
    """A moment, Unix time, in UTC; a dash where it is not known."""
    if moment is None or not 0 <= moment < END_OF_TIME:
        return "–"
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float | None) -> str:
    """A span of time in two digits or three; a dash where it is not known."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}" if seconds < 100 * length else f"{seconds / length:,.0f} {unit}"
    if seconds >= 1:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    thousandths = seconds * 1000
    return "0 s" if not seconds else f"{thousandths:.2g} ms" if thousandths < 10 else f"{thousandths:.0f} ms"


def ago(moment: float | None) -> str:
    """How long ago that was, in whole units, so that a page does not change all the time."""
    if moment is None:
        return "–"
    gone = max(0.0, time.time() - moment)
    length, unit = next(((length, unit) for length, unit in _UNITS if gone >= length), (1.0, "s"))
    return f"{gone / length:,.0f} {unit} ago"


def place(*parts: str) -> str:
    """A link below the page's own root: whatever is in a part stays in it."""
    return "/".join(quote(part, safe="") for part in parts)


def query(asked: Mapping[str, object]) -> str:
    """What comes behind the path; what is empty is left out, and lists are there once for each item."""
    return f"?{urlencode({name: value for name, value in asked.items() if value}, doseq=True)}"
