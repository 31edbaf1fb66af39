"""Schema: what all JSON has that this package prints or serves."""

from __future__ import annotations

import math
from typing import Any

SCHEMA = 1
"""Its version; keys may come, and none is renamed or removed within one."""


def versioned(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its schema's version."""
    return {"schema": SCHEMA, **document}


def finite(value: float) -> float | str:
    """A float as JSON holds it: NaN and infinities as their names."""
    return value if math.isfinite(value) else repr(value)
