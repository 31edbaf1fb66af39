"""Words: numbers as people and as strict readers of JSON read them."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> str:
    """A metric in five digits; whatever else it is as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def strict(value: Any) -> Any:
    """A float that JSON has no word for as a string, and everything else as it is."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
