"""Tracker: a Weights & Biases run that is under way is marked as preempting, so that it is shown as that.

Where there is none, nothing happens; where that fails or takes long, nobody waits for it.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

logger = logging.getLogger("asyncckpt")


def mark_preempting() -> threading.Thread | None:
    """Mark it in a thread of its own, which is returned; None where no run is under way."""
    wandb: Any = sys.modules.get("wandb")  # whoever has a run has imported it
    run = getattr(wandb, "run", None)
    if run is None:
        return None
    thread = threading.Thread(target=_mark, args=(run,), name="asyncckpt-wandb", daemon=True)
    thread.start()
    return thread


def _mark(run: Any) -> None:
    try:
        run.mark_preempting()
    except Exception as error:  # whatever it is, it is no reason to do anything else than before
        logger.warning("the W&B run was not marked as preempting: %r", error)
