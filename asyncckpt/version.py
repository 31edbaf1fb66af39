"""Version: of this package, for what is written and compared."""

from __future__ import annotations

__version__ = "0.1.0"
